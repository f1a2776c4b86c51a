//! Newer system calls that are really refused, by a seccomp filter of our own, as an older kernel or the profile of a
//! container runtime refuses them. Who is under it has to find that out by itself.
#![allow(unsafe_code, reason = "a filter is put on between fork and exec, by calls that no library has")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;

use linux_raw_sys::general as raw;
use mounts::Errno;

/// A [`Refusal`] as text: what the suites of tests run under. tests/refused.rs sets it.
pub(crate) const REFUSED: &str = "HOSTMOUNT_REFUSED";

/// A call that has a fall-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Openat2,
    MoveMount,
    /// move_mount(2) with this flag.
    MoveMountBeneath,
    MountSetattr,
    /// And listmount(2).
    Statmount,
}

impl Call {
    pub(crate) const ALL: [Self; 5] =
        [Self::Openat2, Self::MoveMount, Self::MoveMountBeneath, Self::MountSetattr, Self::Statmount];

    /// As the plugin names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Openat2 => "openat2",
            Self::MoveMount => "move_mount",
            Self::MoveMountBeneath => "MOVE_MOUNT_BENEATH",
            Self::MountSetattr => "mount_setattr",
            Self::Statmount => "statmount",
        }
    }

    /// What the plugin then finds missing.
    const fn missing(self) -> &'static [&'static str] {
        match self {
            Self::MoveMount => &["move_mount", "MOVE_MOUNT_BENEATH"],
            Self::Openat2 => &["openat2"],
            Self::MoveMountBeneath => &["MOVE_MOUNT_BENEATH"],
            Self::MountSetattr => &["mount_setattr"],
            Self::Statmount => &["statmount"],
        }
    }

    const fn numbers(self) -> &'static [u32] {
        match self {
            Self::Openat2 => &[raw::__NR_openat2],
            Self::MoveMount => &[raw::__NR_move_mount],
            Self::MoveMountBeneath => &[],
            Self::MountSetattr => &[raw::__NR_mount_setattr],
            Self::Statmount => &[raw::__NR_statmount, raw::__NR_listmount],
        }
    }
}

/// Calls that are refused, and how. As text `CALL,CALL=ERRNO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    calls: Vec<Call>,
    errno: Errno,
}

impl Refusal {
    pub(crate) const NONE: Self = Self { calls: Vec::new(), errno: Errno::ENOSYS };

    /// All of them, as a kernel of 2018 does it.
    pub(crate) fn all() -> Self {
        Self { calls: Call::ALL.into(), errno: Errno::ENOSYS }
    }

    pub(crate) fn of(call: Call, errno: Errno) -> Self {
        Self { calls: vec![call], errno }
    }

    /// What this process was told to run under.
    pub(crate) fn of_environment() -> Self {
        std::env::var(REFUSED).map_or(Self::NONE, |text| text.parse().unwrap())
    }

    pub(crate) fn is_none(&self) -> bool {
        self.calls.is_empty()
    }

    pub(crate) fn has(&self, call: Call) -> bool {
        self.calls.contains(&call)
    }

    /// That a line of text tells all that is refused as missing.
    #[track_caller]
    pub(crate) fn is_told_by(&self, line: &str) {
        for name in self.calls.iter().flat_map(|call| call.missing()) {
            assert!(line.contains(name), "{self}, but {name} is not in: {line}");
        }
    }

    /// Puts a filter on a program, from its start on.
    pub(crate) fn put_on(&self, command: &mut Command) {
        if self.is_none() {
            return;
        }
        let program = self.program();
        // SAFETY: between fork and exec two system calls are made, with memory that was allocated before.
        unsafe {
            command.pre_exec(move || install(&program).map_err(Into::into));
        }
    }

    /// Does something under a filter that nothing else is under.
    pub(crate) fn on_a_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let under = || {
            install(&self.program()).unwrap();
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(under).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Of BPF; for `struct seccomp_data` see seccomp(2). No program here makes calls of another architecture.
    fn program(&self) -> Vec<libc::sock_filter> {
        const NUMBER: u32 = 0;
        // The lower half of the fifth argument.
        const FLAGS: u32 = 16 + 4 * 8 + if cfg!(target_endian = "big") { 4 } else { 0 };
        let load = |at| filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0);
        let unless = |is: u32, k: u32, skip: u8| filter(libc::BPF_JMP | is | libc::BPF_K, k, skip);
        let say = |what| filter(libc::BPF_RET | libc::BPF_K, what, 0);
        let refuse = say(libc::SECCOMP_RET_ERRNO | u32::try_from(self.errno as i32).unwrap());
        let mut program = vec![load(NUMBER)];
        for &number in self.calls.iter().flat_map(|call| call.numbers()) {
            program.extend([unless(libc::BPF_JEQ, number, 1), refuse]);
        }
        if self.has(Call::MoveMountBeneath) {
            program.extend([unless(libc::BPF_JEQ, raw::__NR_move_mount, 3), load(FLAGS)]);
            program.extend([unless(libc::BPF_JSET, raw::MOVE_MOUNT_BENEATH, 1), refuse]);
        }
        program.push(say(libc::SECCOMP_RET_ALLOW));
        program
    }
}

/// An instruction; a jump goes on after it if what it asks is so, else it skips as many.
fn filter(code: u32, k: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf: skip, k }
}

/// Puts a filter on the calling thread, and what it starts.
fn install(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let len = program.len().try_into().map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the call takes integers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `program` outlives the call, has the length it states, and is only read.
    let put = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    Errno::result(put).map(drop)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.calls.iter().map(|call| call.name()).collect();
        write!(f, "{}={:?}", names.join(","), self.errno)
    }
}

impl FromStr for Refusal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (names, errno) = text.split_once('=').ok_or("CALL,CALL=ERRNO is expected")?;
        let errno = match errno {
            "ENOSYS" => Errno::ENOSYS,
            "EPERM" => Errno::EPERM,
            other => return Err(format!("{other} is not what refused calls say")),
        };
        let call = |name: &str| Call::ALL.into_iter().find(|call| call.name() == name);
        let calls = names.split(',').filter(|name| !name.is_empty());
        let calls = calls.map(|name| call(name).ok_or(format!("{name} has no fall-back"))).collect::<Result<_, _>>()?;
        Ok(Self { calls, errno })
    }
}
