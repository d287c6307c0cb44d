//! Configuration of replicas and sidecars.
//!
//! Each setting is a row of a table in `groups.rs`. The row generates the field, the flag, the
//! environment variable, the key of the configuration file, the help text and the row of
//! `docs/configuration.md`.

mod groups;
mod limits;
mod reference;
mod sections;
mod setting;
mod sources;
mod values;

pub use groups::{
    Common, Config, DatabaseConfig, HealthConfig, SidecarConfig, TlsFiles, load, open,
};
pub use limits::CallLimits;
pub use reference::{effective, reference};
pub use sections::EXAMPLE;
pub use setting::{Kind, Setting, Settings};
pub use sources::{ConfigError, Env, Flags, Sources, flag, variable};
pub use values::{DatabaseUrl, ListenAddress, LogFormat, TraceRatio};
