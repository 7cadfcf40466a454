//! Unix sockets to listen on.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tokio::net::UnixListener;

/// A socket's name in the file system, removed at the end unless another process has taken it over.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    inode: u64,
}

/// Listens under a path. A socket that is there already is replaced in one step: whoever listens on it keeps its
/// connections, and new ones come here. Anything else that is there is left alone, and is an error.
pub(super) fn listen(path: &Path) -> anyhow::Result<(UnixListener, Socket)> {
    let about = || format!("cannot listen on the socket {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("cannot listen on {}: there is something that is no socket", path.display())
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(about),
    }
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{}", std::process::id()));
    let own = PathBuf::from(own);
    match fs::remove_file(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(about),
        _ => {}
    }
    let listener = UnixListener::bind(&own).with_context(about)?;
    let inode = fs::symlink_metadata(&own).with_context(about)?.ino();
    fs::rename(&own, path).with_context(about)?;
    Ok((listener, Socket { path: path.into(), inode }))
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_taken_over_and_removed_by_its_last_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("query.sock");
        let (first, first_name) = listen(&path).unwrap();
        let (second, second_name) = listen(&path).unwrap();
        let _stream = UnixStream::connect(&path).await.unwrap();
        second.accept().await.unwrap();
        drop((first, first_name));
        assert!(path.exists(), "it is the second's now");
        drop((second, second_name));
        assert!(!path.exists());

        // Left behind by a process that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(listen(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        let error = listen(&path).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert!(fs::read_dir(folder.path()).unwrap().count() == 1, "nothing else is left");
    }
}
