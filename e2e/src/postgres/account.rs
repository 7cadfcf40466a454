//! Postgres refuses to run as root; this finds the account that it runs as then.

use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

/// `None` where the harness itself is not root, and so runs Postgres as it is.
pub(super) fn unprivileged() -> Result<Option<Account>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    match ["postgres", "nobody"].iter().find_map(|name| find(&passwd, name)) {
        Some(account) => Ok(Some(account)),
        None => bail!("Postgres does not run as root, and /etc/passwd has neither a postgres nor a nobody account"),
    }
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut parts = line.split(':');
        let (Some(found), Some(_), Some(uid), Some(gid)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let account = Account { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
        (found == name && account.uid != 0).then_some(account)
    })
}

/// Makes a command run as the account.
pub(super) fn run_as(command: &mut Command, account: Option<Account>) {
    if let Some(account) = account {
        // Setting the user from root also drops root's supplementary groups.
        command.uid(account.uid).gid(account.gid);
    }
}

/// Gives a file or folder to the account.
pub(super) fn give(path: &Path, account: Option<Account>) -> Result<()> {
    match account {
        Some(account) => std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("chown {}", path.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_accounts() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        assert_eq!(find(passwd, "nobody"), Some(Account { uid: 65534, gid: 65534 }));
        assert_eq!(find(passwd, "postgres"), None);
        assert_eq!(find(passwd, "root"), None);
    }
}
