//! The command line. What a program or a pipe wants is on stdout, everything else on stderr.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::error::ProvisionError;
use super::execute::Work;
use super::files::Files;
use super::plan::{self, Step};
use super::settings::{self, Settings};
use super::survey::{Seen, Tenant};
use super::{fly, list};
use crate::config::Environment;
use crate::exit::Exit;

/// Makes, renews and removes what a tenant needs: bucket, limited key, index database, credential bundle
#[derive(Debug, Parser)]
#[command(name = "tenant-provision", version, max_term_width = 100, after_help = settings::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make what is missing; given again, it goes on where it stopped
    Create {
        tenant: String,
        #[command(flatten)]
        output: Output,
        /// Take over what has this tenant's names although nothing says whose it is
        #[arg(long)]
        adopt: bool,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a new key and token in a new bundle; the old ones work on
    Rotate {
        tenant: String,
        #[command(flatten)]
        output: Output,
        /// Delete the old keys at once: only when the tenant reads this very file
        #[arg(long, conflicts_with_all = ["finish", "fly_secrets"])]
        revoke_old: bool,
        /// End every token of the database before the new one is made: the tenant's index waits for the new bundle
        #[arg(long, conflicts_with = "finish")]
        invalidate_tokens: bool,
        /// Only delete the keys that are not the bundle's, once the tenant has taken it over
        #[arg(long)]
        finish: bool,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove keys, database, policy and bucket
    Delete {
        tenant: String,
        /// Yes, remove them
        #[arg(long)]
        yes: bool,
        /// The tenant's files, too
        #[arg(long)]
        with_files: bool,
        /// Remove what has this tenant's names although nothing says whose it is
        #[arg(long)]
        adopt: bool,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// All tenants, and what is incomplete
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Output {
    /// The credential bundle: written when it is complete, and read to see what there is
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// Print the lines for `fly secrets import` to stdout, which must be a pipe or a file
    #[arg(long)]
    fly_secrets: bool,
    /// Print them to a terminal, too
    #[arg(long, requires = "fly_secrets")]
    show_secrets: bool,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout or stderr leaves nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Stored };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("tenant-provision: no runtime: {error}"));
            return Exit::Machine;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => Exit::Stored,
        Err(error) => {
            say(&format!("tenant-provision: {error}"));
            error.exit
        }
    }
}

async fn run(command: Command) -> Result<(), ProvisionError> {
    let environment = Environment::process();
    match command {
        Command::Create {
            tenant,
            output,
            adopt,
            dry_run,
        } => {
            check_output(&output)?;
            let settings = Settings::read(&environment).await?;
            let plan = |seen: &Seen| plan::create(&seen.found, adopt);
            renew(&settings, &tenant, &output, dry_run, plan).await
        }
        Command::Rotate {
            tenant,
            output,
            revoke_old,
            invalidate_tokens,
            finish,
            dry_run,
        } => {
            check_output(&output)?;
            let settings = Settings::read(&environment).await?;
            let plan = |seen: &Seen| match finish {
                true => plan::finish(&seen.found),
                false => plan::rotate(&seen.found, revoke_old, invalidate_tokens),
            };
            renew(&settings, &tenant, &output, dry_run, plan).await
        }
        Command::Delete {
            tenant,
            yes,
            with_files,
            adopt,
            dry_run,
        } => {
            if !yes && !dry_run {
                return Err(usage(
                    format!("deleting {tenant}"),
                    "this cannot be undone",
                    "look at it with --dry-run, then give --yes",
                ));
            }
            let settings = Settings::read(&environment).await?;
            let found = Tenant::new(&settings, &tenant)?;
            let seen = found.look(None).await?;
            let steps = plan::delete(&seen.found, with_files, adopt)
                .map_err(|refusal| refusal.into_error(format!("deleting {tenant}"), &found.key_name))?;
            work(&found, &settings, None, seen, &steps, dry_run).await
        }
        Command::List { json } => {
            let settings = Settings::read(&environment).await?;
            let rows = list::look(&settings).await?;
            let mut out = io::stdout();
            // A closed stdout leaves nobody to tell.
            let _ = match json {
                true => writeln!(out, "{:#}", list::json(&rows, &settings.prefix)),
                false => list::text(&rows, &settings.prefix, Timestamp::now(), &mut out),
            };
            Ok(())
        }
    }
}

/// `create` and `rotate`: they end with a bundle.
async fn renew<P>(settings: &Settings, id: &str, output: &Output, dry_run: bool, plan: P) -> Result<(), ProvisionError>
where
    P: FnOnce(&Seen) -> Result<Vec<Step>, plan::Refusal>,
{
    let tenant = Tenant::new(settings, id)?;
    let files = Files::new(&output.bundle);
    // Held until the end: two runs would take each other's key out of the pending file.
    let _lock = match dry_run {
        true => None,
        false => {
            let lock = files.lock()?;
            files.check()?;
            Some(lock)
        }
    };
    let mut seen = tenant.look(Some(&files)).await?;
    let steps = plan(&seen).map_err(|refusal| refusal.into_error(format!("the tenant {id}"), &tenant.key_name))?;
    // Without a new one it is the present bundle that must be good.
    if let (Some(trouble), false) = (seen.trouble.take(), steps.contains(&Step::PlaceBundle)) {
        return Err(trouble);
    }
    explain(&seen, &steps, &files);
    work(&tenant, settings, Some(&files), seen, &steps, dry_run).await?;
    if dry_run {
        return Ok(());
    }
    say(&format!("the bundle is {}", output.bundle.display()));
    if output.fly_secrets
        && let Some(bundle) = files.bundle(id).await?
    {
        print_secrets(&mut io::stdout(), &fly::lines(&bundle))?;
    }
    Ok(())
}

/// The one place where a secret is printed. Who pipes it on must know when it did not arrive.
fn print_secrets(out: &mut dyn Write, lines: &SecretString) -> Result<(), ProvisionError> {
    let printed = out
        .write_all(lines.expose_secret().as_bytes())
        .and_then(|()| out.flush());
    printed.map_err(|error| {
        ProvisionError::new(
            Exit::Machine,
            "printing the lines for Fly to stdout",
            error.to_string(),
            "the bundle is in its place: `create` with the same arguments prints the lines again",
        )
    })
}

/// Why there is more to do than one might think.
fn explain(seen: &Seen, steps: &[Step], files: &Files) {
    let makes_key = steps.contains(&Step::CreateKey);
    let unknown = seen.found.keys.iter().filter(|key| key.attached).count();
    if makes_key && seen.bundle.is_none() && unknown > 0 {
        let file = files.path().display();
        say(&format!(
            "{unknown} key(s) of this tenant may be in use, but their secrets are not in {file}: a new one is made, and they \
             stay. When the tenant runs on the new bundle, `rotate --finish` deletes them"
        ));
    }
    if let Some(bundle) = &seen.found.bundle
        && makes_key
        && (bundle.refused || !bundle.token)
    {
        say("the bundle is refused or not complete: a new one is made");
    }
    if let Some(doubt) = &seen.found.doubt
        && !seen.found.unusable().is_empty()
    {
        say(&format!(
            "{doubt}: so no key is deleted for not having the policy. `rotate --finish` deletes all but the bundle's"
        ));
    }
    if seen.pending.is_some() {
        say(match steps.contains(&Step::PlaceBundle) {
            true => "an earlier run did not finish: going on with what it has made, where that still exists",
            false => "a rotation was begun and is not finished: `rotate` goes on with it",
        });
    }
}

async fn work(
    tenant: &Tenant,
    settings: &Settings,
    files: Option<&Files>,
    seen: Seen,
    steps: &[Step],
    dry_run: bool,
) -> Result<(), ProvisionError> {
    let name = &tenant.name;
    if steps.is_empty() {
        say(&format!("{}: nothing to do", tenant.id));
        return Ok(());
    }
    if dry_run {
        say(&format!("{}: nothing is changed; this would be done:", tenant.id));
    }
    let mut work = Work::new(tenant, settings, files, seen);
    for (at, step) in steps.iter().enumerate() {
        say(&format!("{}/{} {}", at + 1, steps.len(), step.words(name)));
        if !dry_run {
            work.step(step).await?;
        }
    }
    Ok(())
}

/// Before anything is made: secrets must not scroll over a screen.
fn check_output(output: &Output) -> Result<(), ProvisionError> {
    if output.fly_secrets && !output.show_secrets && io::stdout().is_terminal() {
        return Err(usage(
            "--fly-secrets".to_owned(),
            "stdout is a terminal",
            "pipe it into `fly secrets import -a APP`, or give --show-secrets",
        ));
    }
    Ok(())
}

fn usage(what: String, why: &str, todo: &str) -> ProvisionError {
    ProvisionError::new(Exit::Usage, what, why, todo)
}

fn say(line: &str) {
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_do_not_arrive_are_an_error_that_does_not_show_them() {
        let mut small = [0; 4];
        let error = print_secrets(&mut small.as_mut_slice(), &"A=hunter2\n".to_owned().into()).unwrap_err();
        assert_eq!(error.exit, Exit::Machine);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn old_keys_are_not_deleted_before_the_lines_for_fly_were_read() {
        let given = ["tenant-provision", "rotate", "a", "--bundle", "b", "--revoke-old"];
        assert!(Cli::try_parse_from(given).is_ok());
        assert!(Cli::try_parse_from(given.iter().chain(&["--fly-secrets"])).is_err());
    }
}
