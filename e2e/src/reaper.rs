//! No child outlives the harness: a helper shell reads the list of children from a pipe and ends those left when the
//! pipe closes, however the harness ended (also by `kill -9`).
//!
//! Children get their own process group, so that Ctrl-C in a terminal reaches the harness alone, which then ends them
//! in order.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
pub use rustix::process::Signal;

static REAPER: Mutex<Option<ChildStdin>> = Mutex::new(None);

const SCRIPT: &str = r#"
children=""
while read -r op signal pid; do
  case $op in
    +) children="$children $signal:$pid" ;;
    -) rest=""
       for child in $children; do [ "${child#*:}" = "$pid" ] || rest="$rest $child"; done
       children=$rest ;;
  esac
done
for child in $children; do kill -"${child%%:*}" "${child#*:}" 2>/dev/null; done
"#;

fn tell(line: &str) -> Result<()> {
    let mut reaper = REAPER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if reaper.is_none() {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the shell that ends what the harness leaves behind")?;
        *reaper = shell.stdin.take();
    }
    let pipe = reaper.as_mut().context("the reaper has no pipe")?;
    writeln!(pipe, "{line}").and_then(|()| pipe.flush()).context("tell the reaper")
}

/// A child process, ended when it is dropped: by `gentle`, and by KILL where that takes longer than `patience`.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    name: String,
    gentle: Signal,
    patience: Duration,
    ended: Option<ExitStatus>,
}

impl Guarded {
    pub fn spawn(name: &str, command: &mut Command, gentle: Signal, patience: Duration) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        let signal = if gentle == Signal::INT { "INT" } else { "KILL" };
        let guarded = Self { child, name: name.into(), gentle, patience, ended: None };
        tell(&format!("+ {signal} {}", guarded.child.id()))?;
        Ok(guarded)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            bail!("{} has ended already", self.name);
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("wait for {}", self.name))?;
            if self.ended.is_some() {
                tell(&format!("- - {}", self.child.id()))?;
            }
        }
        Ok(self.ended)
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > patience {
                bail!("{} still runs after {patience:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
            self.ended = Some(self.child.wait()?);
            tell(&format!("- - {}", self.child.id()))?;
        }
        Ok(())
    }

    /// The gentle signal, then KILL where it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        self.signal(self.gentle)?;
        let start = Instant::now();
        while start.elapsed() < self.patience {
            if self.ended()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Nobody is left to tell; the reaper has it still.
        let _ = self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    }

    #[tokio::test]
    async fn ends_children_gently_or_not() {
        let mut gentle = Guarded::spawn("sleep", &mut sleeper(), Signal::TERM, Duration::from_secs(5)).unwrap();
        assert_eq!(gentle.ended().unwrap(), None);
        gentle.stop().unwrap();
        assert!(!gentle.ended().unwrap().unwrap().success());

        let mut killed = Guarded::spawn("sleep", &mut sleeper(), Signal::TERM, Duration::from_secs(5)).unwrap();
        killed.kill().unwrap();
        assert!(killed.ended().unwrap().is_some());
        assert!(killed.signal(Signal::TERM).is_err());
    }

    #[tokio::test]
    async fn waits_for_an_end() {
        let mut quick =
            Guarded::spawn("true", &mut Command::new("true"), Signal::TERM, Duration::from_secs(5)).unwrap();
        assert!(quick.wait(Duration::from_secs(5)).await.unwrap().success());
    }
}
