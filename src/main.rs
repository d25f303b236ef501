//! The story in one screen: parse, then hand over. `exec` and `run` stay in the guardian; the rest runs in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = tenant_init::init::early() {
        return ExitCode::from(code);
    }
    tenant_init::cli::main().into()
}
