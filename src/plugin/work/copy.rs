//! `cp`: copies files through tar in the kernel, as kubectl does.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{AttachParams, AttachedProcess};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_util::io::SyncIoBridge;

use super::exec::{BUFFER, exit_code, params};
use super::place::Place;
use super::{pods, stream};
use crate::lifecycle::printable;
use crate::plugin::fetch::Reader;
use crate::plugin::show;

/// The most bytes of an error of tar that are shown.
const MAX_ERROR: u64 = 4096;

pub async fn run(reader: &Reader, from: &Place, to: &Place) -> anyhow::Result<()> {
    let (copied, target) = match (from, to) {
        (Place::Here(from), Place::There { session, kernel, path }) => {
            (upload(reader, from, session, kernel, path).await?, format!("{session}/{kernel}:{path}"))
        }
        (Place::There { session, kernel, path }, Place::Here(to)) => {
            (download(reader, session, kernel, path, to).await?, to.display().to_string())
        }
        (Place::Here(_), Place::Here(_)) | (Place::There { .. }, Place::There { .. }) => {
            bail!("exactly one side must be in a session: SESSION[/KERNEL]:PATH")
        }
    };
    show(&format!("{copied} copied to {target}\n"))
}

/// Splits a path of a kernel into its directory and its last part.
fn split(path: &str) -> anyhow::Result<(&str, &str)> {
    let path = match path.trim_end_matches('/') {
        "" => bail!("the root directory cannot be copied"),
        path => path,
    };
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    match name {
        "." | ".." => bail!("{path} has no name of its own: name the directory"),
        name => Ok((if directory.is_empty() { "/" } else { directory }, name)),
    }
}

/// Copies a file or a directory into a kernel. A path that is a directory there, or ends with `/`, gets it under its own name.
async fn upload(reader: &Reader, from: &Path, session: &str, kernel: &str, path: &str) -> anyhow::Result<String> {
    let own = from.file_name().ok_or_else(|| anyhow!("{} has no name of its own", from.display()))?;
    let is_dir = std::fs::metadata(from).with_context(|| from.display().to_string())?.is_dir();
    let (directory, name) = match path.ends_with('/') || is_directory(reader, session, kernel, path).await? {
        true => (path, own.to_owned()),
        false => split(path).map(|(directory, name)| (directory, OsString::from(name)))?,
    };
    let mut process = start(reader, session, kernel, &["tar", "xmf", "-", "-C", directory], true).await?;
    let mut input = process.stdin().ok_or_else(|| anyhow!("the kernel takes no input"))?;
    // Unlike the streams of kube, a duplex stream ends on both sides when one is dropped.
    let (near, mut far) = tokio::io::duplex(BUFFER);
    let source = from.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack(SyncIoBridge::new(near), &source, is_dir, &name));
    let sending = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut far, &mut input).await; // tar says what went wrong
        let _ = input.shutdown().await;
    });
    let ended = finish(process, session).await;
    sending.abort();
    // An error of tar says more than the broken pipe that it causes.
    let packed = packing.await?;
    ended.and(packed).map(|()| from.display().to_string())
}

fn pack(to: impl Write, source: &Path, is_dir: bool, name: &OsString) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    archive.sparse(false); // busybox cannot read it
    match is_dir {
        true => archive.append_dir_all(name, source)?,
        false => archive.append_path_with_name(source, name)?,
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

async fn is_directory(reader: &Reader, session: &str, kernel: &str, path: &str) -> anyhow::Result<bool> {
    let mut process = start(reader, session, kernel, &["test", "-d", path], false).await?;
    let status = match process.take_status() {
        Some(status) => status.await,
        None => None,
    };
    // An image without `test` has no tar either, which says so.
    Ok(exit_code(status.as_ref()).is_ok_and(|code| code == 0))
}

/// Copies a file or a directory out of a kernel. The archive cannot write outside the target.
async fn download(reader: &Reader, session: &str, kernel: &str, path: &str, to: &Path) -> anyhow::Result<String> {
    let (directory, name) = split(path)?;
    let target = match to.is_dir() {
        true => to.join(name),
        false => to.to_owned(),
    };
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unpacked = tempfile::tempdir_in(parent).with_context(|| parent.display().to_string())?;
    let mut process = start(reader, session, kernel, &["tar", "cf", "-", "-C", directory, "--", name], false).await?;
    let mut output = process.stdout().ok_or_else(|| anyhow!("the kernel gives no output"))?;
    let (mut near, far) = tokio::io::duplex(BUFFER);
    let into = unpacked.path().to_owned();
    let unpacking = tokio::task::spawn_blocking(move || unpack(SyncIoBridge::new(far), &into));
    let receiving = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut output, &mut near).await; // the archive tells whether it is complete
        drop(near);
        // After an error, tar must still come to its end.
        let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    });
    let ended = finish(process, session).await;
    if ended.is_err() {
        receiving.abort();
    }
    ended.and(unpacking.await?)?;
    replace(&unpacked.path().join(name), &target)?;
    Ok(format!("{session}/{kernel}:{path}"))
}

/// Unpacks an archive into a directory of its own. Links that lead out of it are not followed. Directories get their modes last,
/// because some may not be written to.
fn unpack(archive: impl std::io::Read, into: &Path) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(archive);
    let mut directories = vec![];
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_dir() {
            // A missing directory is made for the first entry in it.
            directories.push(entry);
        } else if !entry.unpack_in(into)? {
            bail!("the archive names a path outside its directory: {}", printable(&entry.path()?.display().to_string()));
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut directory in directories {
        directory.unpack_in(into)?;
    }
    Ok(())
}

/// Moves what was unpacked to its place. A directory that exists is merged, as kubectl does.
fn replace(from: &Path, to: &PathBuf) -> anyhow::Result<()> {
    let is_dir = |path: &Path| path.symlink_metadata().is_ok_and(|data| data.is_dir());
    if !(is_dir(from) && is_dir(to)) {
        return std::fs::rename(from, to).with_context(|| to.display().to_string());
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        replace(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

async fn start(reader: &Reader, session: &str, kernel: &str, command: &[&str], input: bool) -> anyhow::Result<AttachedProcess> {
    let pod = pods::running(reader, session, kernel).await?;
    let params = AttachParams { stdin: input, stdout: !input, ..params() };
    let command = command.iter().map(|word| (*word).to_owned());
    Ok(reader.namespaced::<Pod>().exec(&pod.name_any(), command, &params).await?)
}

/// Waits for the end of tar, and turns its error into ours.
async fn finish(mut process: AttachedProcess, session: &str) -> anyhow::Result<()> {
    let (stderr, status) = (process.stderr(), process.take_status());
    let mut message = String::new();
    let reading = async {
        match stderr {
            Some(stderr) => read_start(stderr, &mut message).await,
            None => Ok(()),
        }
    };
    let (status, _) = stream::until_ended(status, reading).await; // what was read is shown
    match exit_code(status.as_ref()) {
        Ok(0) => Ok(()),
        Ok(code) if message.trim().is_empty() => bail!("tar ended with {code} in session {session}"),
        Ok(_) => bail!("{}", printable(message.trim())),
        Err(error) if error.to_string().contains("executable file not found") => {
            bail!("the image of session {session} has no tar, which cp needs")
        }
        Err(error) => Err(error),
    }
}

/// Reads the start of an output, and the rest without keeping it, so that its writer does not wait.
async fn read_start(mut from: impl AsyncRead + Unpin, text: &mut String) -> std::io::Result<()> {
    let mut start = vec![];
    (&mut from).take(MAX_ERROR).read_to_end(&mut start).await?;
    text.push_str(&String::from_utf8_lossy(&start));
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_at_its_last_part() {
        assert_eq!(split("/data/out").ok(), Some(("/data", "out")));
        assert_eq!(split("/data/").ok(), Some(("/", "data")));
        assert_eq!(split("out").ok(), Some((".", "out")));
        for wrong in ["/", "", "/data/..", "."] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_archive_cannot_write_outside_its_directory() {
        let mut archive = tar::Builder::new(vec![]);
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        archive.append_link(&mut link, "data/out", "/").expect("a link");
        let mut file = tar::Header::new_gnu();
        file.set_size(4);
        file.set_mode(0o644);
        let name = format!("data/out/tmp/sokovan-escaped-{}", std::process::id());
        archive.append_data(&mut file, &name, &b"evil"[..]).expect("a file");
        let bytes = archive.into_inner().expect("an archive");
        let target = tempfile::tempdir().expect("a directory");
        assert!(unpack(&bytes[..], target.path()).is_err(), "a link leads out");
        assert!(!Path::new(&format!("/tmp/sokovan-escaped-{}", std::process::id())).exists());
    }

    #[test]
    fn a_directory_that_may_not_be_written_to_is_unpacked_with_its_files() {
        let source = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(source.path().join("a")).expect("a directory");
        std::fs::write(source.path().join("a/file"), "1").expect("a file");
        let mut bytes = vec![];
        pack(&mut bytes, source.path(), true, &"data".into()).expect("an archive");
        // The archive's entry for the directory a gets the mode 0555.
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut changed = tar::Builder::new(vec![]);
        for entry in archive.entries().expect("entries") {
            let entry = entry.expect("an entry");
            let mut header = entry.header().clone();
            if header.entry_type().is_dir() {
                header.set_mode(0o555);
                header.set_cksum();
            }
            changed.append(&header, entry).expect("an entry");
        }
        let target = tempfile::tempdir().expect("a directory");
        unpack(&changed.into_inner().expect("an archive")[..], target.path()).expect("it is unpacked");
        assert!(target.path().join("data/a/file").exists());
    }

    #[test]
    fn a_directory_is_merged_into_one_that_exists() {
        let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        std::fs::create_dir_all(from.path().join("a/b")).expect("a directory");
        std::fs::write(from.path().join("a/b/new"), "1").expect("a file");
        std::fs::create_dir_all(to.path().join("a")).expect("a directory");
        std::fs::write(to.path().join("a/old"), "2").expect("a file");
        replace(&from.path().join("a"), &to.path().join("a")).expect("it is moved");
        assert!(to.path().join("a/b/new").exists() && to.path().join("a/old").exists());
    }
}
