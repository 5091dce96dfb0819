//! Reading passwords from where the topology says they are. The only place that does.

use holdfast_core::secret::Password;
use holdfast_core::topology::PasswordSource;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of a password; MariaDB takes longer ones, people and `mysql_native_password` do not.
const PASSWORD_BYTES_MAX: usize = 256;

/// Why there is no password. Nothing was changed; Holdfast does not start a service without it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the password file {path} cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "the environment variable {0} with a password is not set; set it for `holdfast run` or use `password_file`"
    )]
    NoVariable(String),
    #[error("the password from {0} is empty; write it in the first line")]
    Empty(String),
    #[error("the password from {origin} is no text of at most {max} bytes", max = PASSWORD_BYTES_MAX)]
    Unfit { origin: String },
}

/// Reads a password. Of a file, the first line counts, without its end.
pub fn resolve(source: &PasswordSource) -> Result<Password, Error> {
    match source {
        PasswordSource::File(path) => from_file(path),
        PasswordSource::Env(name) => match std::env::var_os(name) {
            None => Err(Error::NoVariable(name.clone())),
            Some(value) => {
                let origin = format!("the environment variable {name}");
                let value = value.into_string().map_err(|_| Error::Unfit { origin: origin.clone() })?;
                checked(&value, origin)
            }
        },
        PasswordSource::Plain(value) => checked(value, "the topology file".into()),
    }
}

fn from_file(path: &Path) -> Result<Password, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let origin = || path.display().to_string();
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(PASSWORD_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(unreadable)?;
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let line = bytes.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| Error::Unfit { origin: origin() })?;
    checked(text, origin())
}

fn checked(text: &str, origin: String) -> Result<Password, Error> {
    if text.is_empty() {
        return Err(Error::Empty(origin));
    }
    if text.len() > PASSWORD_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(Error::Unfit { origin });
    }
    Ok(Password::new(text))
}

/// A reason to look again at a password, on this host.
pub(super) struct Doubt {
    pub code: &'static str,
    pub message: String,
    pub label: &'static str,
    pub hint: String,
}

/// `None`: the password can be read here and by few others.
pub(super) fn doubt(source: &PasswordSource) -> Option<Doubt> {
    match resolve(source) {
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |c| format!(": {c}"));
            Some(Doubt {
                code: "no-password",
                message: format!("{error}{cause}"),
                label: "no password from here yet",
                hint: "every host that runs this topology needs it before `holdfast run`".into(),
            })
        }
        Ok(_) => match source {
            PasswordSource::File(path) => exposed(path),
            PasswordSource::Env(_) | PasswordSource::Plain(_) => None,
        },
    }
}

fn exposed(path: &Path) -> Option<Doubt> {
    let mode = std::fs::metadata(path).ok()?.mode();
    (mode & 0o007 != 0).then(|| Doubt {
        code: "exposed-password",
        message: format!("every user of this host may read {}", path.display()),
        label: "readable by all",
        hint: format!("chmod 600 {}", path.display()),
    })
}
