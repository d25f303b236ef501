//! `tenant-provision`: makes, renews and removes what a tenant needs (docs/PROVISIONING.md).
//!
//! A tenant `acme` is a bucket, an IAM policy that opens this bucket only, an access key with this policy and an index
//! database, all of them named `PREFIX-acme` (`names`), and a credential bundle in a file. Nothing is kept anywhere else:
//! each command looks at what there is (`survey`), a pure function makes a list of steps of it (`plan`), and the steps
//! are done one after the other (`execute`). So a command that was interrupted is simply given again, and `--dry-run`
//! is the same without the last part.
//!
//! Three rules make that safe:
//!
//! * **An object in the bucket says whose it is** (`.tenant-init/tenant.json`, `marker`). It comes first and goes last.
//!   What has our names but is not under such a bucket is not touched without `--adopt`.
//! * **A secret is in a file before it opens anything.** IAM tells a secret once. It goes into `FILE.pending` (`files`),
//!   then the policy is attached. So a key without a policy has never been of use to anyone and can go, and a key with
//!   one may be in use and stays until `rotate --finish` or `--revoke-old`.
//! * **A bundle is in its place only when it was tried.** A tenant takes over a new bundle as soon as it sees it.
//!
//! The IAM API is AWS's query protocol (`iam`), the Turso Platform API is JSON (`turso`); both go through `http`, which
//! retries. The bucket is asked through `storage`, as tenant-init asks it.

mod cli;
mod error;
mod execute;
mod files;
mod fly;
mod http;
mod iam;
mod list;
mod marker;
mod names;
mod plan;
mod settings;
mod survey;
mod turso;

pub use cli::main;
