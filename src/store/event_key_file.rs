//! The file with the event key, which authenticates the database and must not be stored in it.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use tracing::info;

use crate::{domain::authenticity::EventKey, store::OpenError};

/// Where a store finds the event key.
#[derive(Debug)]
pub(super) enum KeySource {
    /// In this file, which is created beside a new, embedded database.
    Embedded(PathBuf),
    /// In this file, which the operator has created.
    File(PathBuf),
}

impl KeySource {
    /// The file that the operator has configured, or else the file beside an embedded database.
    pub(super) fn embedded(configured: Option<&Path>, database: &Path) -> Self {
        let beside = || {
            let mut name = database.as_os_str().to_owned();
            name.push(".event-key");
            PathBuf::from(name)
        };
        Self::Embedded(configured.map_or_else(beside, Path::to_path_buf))
    }

    /// The file that the operator has configured, and must configure.
    pub(super) fn configured(configured: Option<&Path>) -> Result<Self, OpenError> {
        let required = || {
            OpenError(
                "event-key-file is not set, so a party with access to the database could grant \
                 access; set event-key-file to a file from `openssl rand -hex 32`, the same for \
                 all replicas"
                    .into(),
            )
        };
        configured.map(|path| Self::File(path.to_path_buf())).ok_or_else(required)
    }

    /// Reads the key. Creates the file of an embedded database whose log is empty.
    pub(super) fn read(&self, is_new: bool) -> Result<EventKey, OpenError> {
        let (Self::Embedded(path) | Self::File(path)) = self;
        match (std::fs::read_to_string(path), self) {
            (Ok(text), _) => EventKey::from_text(&text).map_err(|_| {
                rejected(
                    path,
                    "does not contain 64 hexadecimal digits in lower case; correct the file, or \
                     restore its backup",
                )
            }),
            (Err(error), Self::Embedded(_)) if error.kind() == ErrorKind::NotFound && is_new => {
                create(path)
            }
            (Err(error), Self::File(_)) if error.kind() == ErrorKind::NotFound && is_new => {
                let problem = "does not exist; create it with `openssl rand -hex 32`, readable by \
                               the server only";
                Err(rejected(path, problem))
            }
            (Err(error), _) if error.kind() == ErrorKind::NotFound => {
                Err(rejected(path, "does not exist, but the database needs it; restore the file"))
            }
            (Err(error), _) => {
                let problem = format!("cannot be read: {error}; let the server read the file");
                Err(rejected(path, &problem))
            }
        }
    }
}

/// Reads the event key in a file that the operator has created.
pub fn read_event_key(path: &Path) -> Result<EventKey, OpenError> {
    KeySource::File(path.to_path_buf()).read(false)
}

fn rejected(path: &Path, problem: &str) -> OpenError {
    OpenError(format!("the event key {} {problem}", path.display()))
}

fn create(path: &Path) -> Result<EventKey, OpenError> {
    let key = EventKey::generate().map_err(|error| OpenError(error.to_string()))?;
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(format!("{}\n", key.to_text()).as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| {
        rejected(path, &format!("cannot be created: {error}; let the server write there"))
    })?;
    info!(path = %path.display(), "created the event key; keep a copy apart from the database");
    Ok(key)
}
