//! Settings, and the table syntax that declares groups of them.

use toml::Table;

use super::sources::Sources;

/// A setting: the flag `--max-staleness`, the variable `SUPPORT_ACCESS_MAX_STALENESS` and the key
/// `max_staleness` of the configuration file. All three are text for the same parser.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The key in the configuration file.
    pub name: &'static str,
    /// The number of values.
    pub kind: Kind,
    /// Placeholder for a value in help texts, such as `DURATION`.
    pub value_name: &'static str,
    /// The default as a user would write it. Empty: there is none.
    pub default: &'static str,
    /// Help text in paragraphs. The first paragraph is a summary.
    pub help: &'static str,
}

/// The number of values of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// A list: a repeated flag, a variable separated by commas, or an array in the file.
    Many,
    /// `true` or `false`. The flag without a value means `true`.
    Switch,
}

pub(super) type One<T> = T;
pub(super) type Optional<T> = Option<T>;
pub(super) type Many<T> = Vec<T>;
pub(super) type Switch<T> = T;

/// A group of settings that are read together.
pub trait Settings: Sized {
    /// All settings of the group.
    fn settings() -> Vec<&'static Setting>;

    /// Reads every setting and records problems. A setting with a problem gets its default.
    fn read(sources: &Sources<'_>, problems: &mut Vec<String>) -> Self;

    /// Checks combinations of valid settings.
    fn check(&self, _problems: &mut Vec<String>) {}

    /// The sections of the configuration file, with defaults.
    fn sections(&self) -> Table {
        Table::new()
    }
}

/// Declares a group. A row is a field with its help text, kind, placeholder, default and parser.
/// `groups` are fields that contain other groups, `sections` are tables of the configuration file,
/// and `check` checks combinations.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident {$(
            $(#[doc = $help:literal])+
            $field:ident: $kind:ident<$type:ty> =
                $value_name:literal, $default:literal, $parse:expr;
        )+}
        groups {$($group:ident: $Group:ty;)*}
        sections {$($section:ident: $Section:ty = $read:expr;)*}
        check $check:expr;
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $Name {
            $($(#[doc = $help])+ pub $field: $kind<$type>,)+
            $(#[doc = concat!("See [`", stringify!($Group), "`].")] pub $group: $Group,)*
            $(#[doc = concat!("See [`", stringify!($Section), "`].")] pub $section: $Section,)*
        }

        impl $Name {
            pub(super) const SETTINGS: &'static [Setting] = &[$(Setting {
                name: stringify!($field),
                kind: Kind::$kind,
                value_name: $value_name,
                default: $default,
                help: concat!($($help, "\n"),+),
            }),+];

            $(fn $field(sources: &Sources<'_>, problems: &mut Vec<String>) -> $kind<$type> {
                let is_list = Kind::$kind == Kind::Many;
                let name = stringify!($field);
                let values = sources.values(name, is_list, $default, $parse, problems);
                settings!(@ $kind values)
            })+
        }

        impl Settings for $Name {
            fn settings() -> Vec<&'static Setting> {
                let own = Self::SETTINGS.iter();
                own$(.chain(<$Group>::settings()))*.collect()
            }

            fn read(sources: &Sources<'_>, problems: &mut Vec<String>) -> Self {
                Self {
                    $($field: Self::$field(sources, problems),)+
                    $($group: <$Group>::read(sources, problems),)*
                    $($section: $read(sources, problems),)*
                }
            }

            fn check(&self, problems: &mut Vec<String>) {
                $check(self, problems);
                $(self.$group.check(problems);)*
            }

            #[allow(unused_mut, reason = "some groups have no sections")]
            fn sections(&self) -> Table {
                let mut sections = Table::new();
                $(sections.extend(self.$group.sections());)*
                $(if let Ok(section) = Value::try_from(&self.$section) {
                    sections.insert(stringify!($section).into(), section);
                })*
                sections
            }
        }

        impl Default for $Name {
            fn default() -> Self {
                Self::read(&Sources::default(), &mut Vec::new())
            }
        }
    };
    (@ Many $values:ident) => { $values };
    (@ Optional $values:ident) => { $values.into_iter().next() };
    (@ $one:ident $values:ident) => {{
        // A test reads every default.
        $values.into_iter().next().expect("the default of a setting is valid")
    }};
}
pub(super) use settings;

impl Setting {
    /// The paragraphs of the help text, each in one line.
    pub fn paragraphs(&self) -> impl Iterator<Item = String> {
        let line = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        self.help.split("\n\n").map(move |paragraph| line(paragraph.trim()))
    }
}
