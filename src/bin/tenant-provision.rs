//! Makes, renews and removes what a tenant needs. For operators: it never runs on a tenant's machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    tenant_init::provision::main().into()
}
