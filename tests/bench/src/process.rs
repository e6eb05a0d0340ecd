//! Processes: their CPU and memory as Linux counts them, the core that they stay on, and their end.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::fs;
use std::io::ErrorKind;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ticks a second in `/proc/*/stat` (USER_HZ), 100 on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;
/// A gateway that is asked to stop has 10 s by its own count.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// A child that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command`, on one core if one is named; its standard error is to be read by the owner.
    pub(crate) fn start(command: Command, core: Option<usize>) -> Result<Self> {
        let mut command = match core {
            None => command,
            Some(core) => on_core(&command, core),
        };
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {name}"))?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// SIGKILL, as a crash would have it.
    pub(crate) fn kill(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGTERM, then SIGKILL if it does not end in time.
    fn stop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The same command by way of taskset, which replaces itself by it: the process has the same id and never ran elsewhere.
/// Program, arguments and environment are taken over, which is all that commands here have.
fn on_core(command: &Command, core: usize) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.arg("-c").arg(core.to_string()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => pinned.env(name, value),
            None => pinned.env_remove(name),
        };
    }
    pinned
}

/// Where server and generator run, so that neither takes the other's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The measured server's.
    pub(crate) server: usize,
    /// Everything else's.
    pub(crate) load: usize,
}

impl Cores {
    /// Two of the cores that this process may use; none where there is only one.
    pub(crate) fn find() -> Result<Option<Self>> {
        let cores = parse_cores(&allowed()?);
        Ok(match cores.as_slice() {
            [server, load, ..] => Some(Self { server: *server, load: *load }),
            _ => None,
        })
    }
}

fn allowed() -> Result<String> {
    let status = fs::read_to_string("/proc/thread-self/status").context("needs Linux's /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(line.context("/proc names no allowed cores")?.trim().to_owned())
}

/// `0,2-4` as numbers.
fn parse_cores(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Keeps the calling thread, which must be the main one, on a core until it is dropped.
pub(crate) struct Pinned {
    before: String,
}

impl Pinned {
    pub(crate) fn to(core: usize) -> Result<Self> {
        let before = allowed()?;
        move_to(&core.to_string())?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.before) {
            eprintln!("meridian-bench: {error:#}");
        }
    }
}

/// The id of the process is that of its main thread; taskset without `-a` moves no other.
fn move_to(cores: &str) -> Result<()> {
    let own = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-cp", cores, &own]).stdout(Stdio::null()).status();
    match moved {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("taskset -cp {cores}: {status}"),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("taskset is missing: install util-linux"),
        Err(error) => Err(error).context("cannot run taskset"),
    }
}

/// CPU seconds that a process has used so far, all threads together; to 10 ms.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let stat = stat.with_context(|| format!("process {pid} has ended"))?;
    ticks(&stat, 11, 2).context("/proc/*/stat has another form than expected")
}

/// CPU seconds of this process and of the children that it has waited for.
fn own_cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("needs Linux's /proc")?;
    ticks(&stat, 11, 4).context("/proc/self/stat has another form than expected")
}

/// `count` fields of ticks from `first` on, counted behind the name, which may hold anything; in seconds.
fn ticks(stat: &str, first: usize, count: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().skip(first).take(count).collect();
    let sum = fields.iter().map(|field| field.parse::<f64>()).sum::<Result<f64, _>>().ok()?;
    (fields.len() == count).then_some(sum / TICKS_PER_SECOND)
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident, the program's own pages included.
    pub(crate) resident: f64,
    /// Of that, what no file backs.
    pub(crate) anonymous: f64,
    /// The most that was ever resident.
    pub(crate) peak: f64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.with_context(|| format!("process {pid} has ended"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        number.with_context(|| format!("/proc/{pid}/status shows no {name}"))
    };
    Ok(Memory { resident: kib("VmRSS")?, anonymous: kib("RssAnon")?, peak: kib("VmHWM")? })
}

/// Raises the number of open files to what the system lets this process have; children inherit it.
pub(crate) fn allow_many_files(needed: u64) -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < needed) {
        bail!("needs {needed} open files, and may have {maximum:?}: raise the hard limit (ulimit -Hn)");
    }
    let wanted = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, wanted).context("cannot raise the limit of open files")
}

/// Watches how much of the machine others use meanwhile: what numbers are worth.
pub(crate) struct Neighbours {
    since: Instant,
    busy: f64,
    own: f64,
}

impl Neighbours {
    pub(crate) fn watch() -> Result<Self> {
        Ok(Self { since: Instant::now(), busy: busy()?, own: own_cpu()? })
    }

    /// The cores that others kept busy on average. Children of this process count as others until they are waited for.
    pub(crate) fn cores(&self) -> Result<f64> {
        let others = (busy()? - self.busy) - (own_cpu()? - self.own);
        Ok((others / self.since.elapsed().as_secs_f64()).max(0.0))
    }
}

/// Seconds for which the machine's cores were not idle.
fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("needs Linux's /proc")?;
    let all =
        stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat is strange")?;
    let fields = all.split_ascii_whitespace().map(str::parse::<f64>);
    let fields = fields.collect::<Result<Vec<f64>, _>>().context("/proc/stat is strange")?;
    match fields.as_slice() {
        [user, nice, system, _idle, _wait, interrupts, soft, stolen, ..] => {
            Ok((user + nice + system + interrupts + soft + stolen) / TICKS_PER_SECOND)
        }
        _ => bail!("/proc/stat is strange"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse_cores("0-1"), [0, 1]);
        assert_eq!(parse_cores("3,5-7"), [3, 5, 6, 7]);
        assert_eq!(parse_cores(""), [0; 0]);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 30 20 0";
        assert_eq!(ticks(stat, 11, 2), Some(2.0));
        assert_eq!(ticks(stat, 11, 4), Some(2.5));
        assert_eq!(ticks("7 (a) S 1", 11, 2), None);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let own = std::process::id();
        let memory = memory(own).unwrap();
        assert!(memory.anonymous <= memory.resident && memory.resident <= memory.peak + 1024.0);
        assert!(cpu(own).unwrap() >= 0.0);
    }
}
