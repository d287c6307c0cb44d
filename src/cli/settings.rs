//! Flags of the settings of a process, generated from the tables in `server/config`.

use std::{marker::PhantomData, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::ValueParser, error::Error,
};

use super::error::CliError;
use crate::server::config::{self, Flags, Kind, Setting, Settings};

/// The flags of the settings `C`, and `--config`.
#[derive(Debug, Clone)]
pub(crate) struct SettingArgs<C> {
    flags: Flags,
    settings: PhantomData<C>,
}

impl<C: Settings> SettingArgs<C> {
    /// Loads the configuration from flags, environment, file and defaults.
    pub(crate) fn load(&self) -> Result<C, CliError> {
        let loaded = config::load(&self.flags, &from_env);
        loaded.map_err(|error| CliError::invalid(error.problems))
    }

    /// The effective settings as a configuration file.
    pub(crate) fn effective(&self, config: &C) -> String {
        config::effective(config, &self.flags, &from_env)
    }
}

impl<C: Settings> Args for SettingArgs<C> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config").long("config").value_name("FILE");
        let config = config
            .value_parser(ValueParser::path_buf())
            .help("Configuration file in TOML. Environment: SUPPORT_ACCESS_CONFIG. Default: none");
        command.args(C::settings().into_iter().map(to_arg)).arg(config)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<C: Settings> FromArgMatches for SettingArgs<C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Flags::default().with_file(matches.get_one::<PathBuf>("config").cloned());
        for setting in C::settings() {
            let values = matches.get_many::<String>(setting.name).into_iter().flatten();
            flags = flags.with(setting.name, values.cloned());
        }
        Ok(Self { flags, settings: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn to_arg(setting: &'static Setting) -> Arg {
    let default = if setting.default.is_empty() { "none" } else { setting.default };
    let variable = config::variable(setting.name);
    let names = format!("Default: {default}. Environment: {variable}. File: {}.", setting.name);
    let paragraphs: Vec<String> = setting.paragraphs().chain([names]).collect();
    let arg = Arg::new(setting.name)
        .long(config::flag(setting.name))
        .value_name(setting.value_name)
        .help(paragraphs[0].trim_end_matches('.').to_owned())
        .long_help(paragraphs.join("\n\n"));
    match setting.kind {
        Kind::One | Kind::Optional => arg,
        Kind::Many => arg.action(ArgAction::Append),
        Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
    }
}

/// An environment variable. Bytes that are not UTF-8 become U+FFFD.
fn from_env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
