//! The app: basic-memory by default, any command with `run -- CMD`.
//!
//! * `command`: program, arguments, user and the environment allow-list.
//! * `projects`: basic-memory's `config.json`, regenerated so that projects survive a new machine.
//! * `ready`: is it answering?

pub mod command;
pub mod projects;
pub mod ready;
