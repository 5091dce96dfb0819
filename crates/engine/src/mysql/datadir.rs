//! The directories of one instance: whose they are, how they are made, how one data directory replaces another.
//!
//! Guarantees: a directory without our mark that is not empty is never written to; one directory has one driver at a
//! time; a data directory appears under its name whole or not at all. Everything here blocks.

use super::{Layout, flavour};
use crate::files::{self, io, sync_parent};
pub(super) use crate::files::{
    free_bytes, give_away, ids_of, last_lines, remove_dir, remove_file, run_as, sibling, sync_dir, sync_tree,
    tree_bytes, user_name_of, write_whole,
};
use crate::{Error, Spec};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// In a data directory that came by a clone: the position to set at its first start.
pub(super) const CLONE_STATE: &str = "holdfast-clone-state";
/// Present while commits are answered without an acknowledgement, though the instance is meant to be `sync`.
const ALONE: &str = "commits-alone";

/// Takes possession of `at.root`. The returned file holds the lock.
pub(super) fn claim(spec: &Spec, at: &Layout) -> Result<File, Error> {
    let dirs = [&at.root, &at.run, &at.saved, &at.log, &at.tmp].map(PathBuf::as_path);
    let theirs = [&at.root, &at.run, &at.log, &at.tmp].map(PathBuf::as_path);
    let lock = files::claim(spec, &at.root, &at.run, &dirs, &theirs)?;
    files::protect(&at.root)?;
    files::protect(&at.saved)?;
    Ok(lock)
}

/// Initialises the data directory if there is none. A half-made one is thrown away.
pub(super) fn initialise(spec: &Spec, at: &Layout, me: &str) -> Result<(), Error> {
    if at.data.exists() {
        return Ok(());
    }
    let half = at.beside(".init");
    remove_dir(&half)?;
    let owner = run_as(spec)?;
    let run_as = owner.as_ref().map_or(me, |o| &o.name);
    let mut install = flavour::of(spec.engine)?.initialise(spec, at, &half, run_as, me)?;
    let program = install.get_program().to_string_lossy().into_owned();
    let output = install.stdin(Stdio::null()).output().map_err(io("running", Path::new(&program)))?;
    if !output.status.success() {
        return Err(Error::Program { program, words: last_lines(&[output.stdout, output.stderr].concat()) });
    }
    sync_tree(&half)?;
    fs::rename(&half, &at.data).map_err(io("putting in place", &at.data))?;
    sync_dir(&at.root)
}

/// Finishes a swap that a crash may have interrupted: `ready` (complete) becomes the data, the data becomes `old`.
pub(super) fn swap_in(at: &Layout) -> Result<(), Error> {
    let (ready, old) = (at.beside(".ready"), at.beside(".old"));
    if !ready.exists() {
        return Ok(());
    }
    if at.data.exists() {
        // Of an earlier clone whose data has since been the instance's own.
        remove_dir(&old)?;
        fs::rename(&at.data, &old).map_err(io("setting aside", &at.data))?;
    }
    fs::rename(&ready, &at.data).map_err(io("putting in place", &at.data))?;
    sync_parent(&at.data)
}

/// The position that a cloned data directory still waits to be given.
pub(super) fn clone_state(at: &Layout) -> Result<Option<String>, Error> {
    let path = at.data.join(CLONE_STATE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("reading", &path)(e)),
    }
}

/// After a cloned data directory has its position: from now on it is the instance's own.
pub(super) fn clone_settled(at: &Layout) -> Result<(), Error> {
    let path = at.data.join(CLONE_STATE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("removing", &path)(e)),
        _ => sync_dir(&at.data)?,
    }
    remove_dir(&at.beside(".old"))
}

/// Whether commits were last answered without an acknowledgement.
pub(super) fn commits_alone(at: &Layout) -> bool {
    at.root.join(ALONE).exists()
}

/// Durable before it returns.
pub(super) fn set_commits_alone(at: &Layout, alone: bool) -> Result<(), Error> {
    let path = at.root.join(ALONE);
    if alone == path.exists() {
        return Ok(());
    }
    fs::create_dir_all(&at.root).map_err(io("creating", &at.root))?;
    if alone {
        return write_whole(&path, "commits are answered without a replica's acknowledgement\n");
    }
    fs::remove_file(&path).map_err(io("removing", &path))?;
    sync_dir(&at.root)
}

/// In the data directory, so that it shares the data's fate.
const INTACT: &str = "holdfast-intact";
/// Always there, and never replaced by the engine.
const SYSTEM_TABLESPACE: &str = "ibdata1";

/// The mark that nothing which this instance acknowledged is missing here. In a copy of the directory it says nothing.
pub(super) fn intact(at: &Layout) -> bool {
    fs::read_to_string(at.data.join(INTACT)).is_ok_and(|text| text == mark_of(at))
}

/// What a copy, or a file put back, does not share with the data that the mark was made for.
fn mark_of(at: &Layout) -> String {
    let id = |path: &Path| fs::metadata(path).map_or((0, 0), |m| (m.dev(), m.ino()));
    let (data, tablespace) = (id(&at.data), id(&at.data.join(SYSTEM_TABLESPACE)));
    format!(
        "all that this instance ever acknowledged is in its logs\ndirectory={}:{}\ntablespace={}:{}\n",
        data.0, data.1, tablespace.0, tablespace.1
    )
}

/// Durable before it returns.
pub(super) fn set_intact(at: &Layout, intact: bool) -> Result<(), Error> {
    let path = at.data.join(INTACT);
    if intact {
        return write_whole(&path, &mark_of(at));
    }
    if !path.exists() {
        return Ok(());
    }
    fs::remove_file(&path).map_err(io("removing", &path))?;
    sync_dir(&at.data)
}
