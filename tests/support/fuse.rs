//! A real FUSE mount, served by a thread of the test: so it can die, and hang.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};

/// A real FUSE file system on `at`, answered only as far as its test wants. `None`, with the reason printed, where
/// /dev/fuse can't be opened.
pub(crate) struct Fuse(File);

impl Fuse {
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        let device = match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(e) => {
                println!("SKIPPED: /dev/fuse cannot be opened ({e}): this test needs FUSE");
                return None;
            }
        };
        // What is there may be dead, so that nobody can tell that it is a directory.
        if let Err(e) = fs::create_dir_all(at) {
            assert_eq!(e.kind(), std::io::ErrorKind::AlreadyExists);
        }
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("test"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Some(Self(device))
    }

    /// Answers requests (INIT, LOOKUP, GETATTR, STATFS) until told to stop; then the descriptor is kept open, unanswered.
    pub(crate) fn serve(self, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Self> {
        let work = move || {
            let mut fuse = self;
            let mut request = vec![0_u8; 1 << 17];
            while !stop.load(Ordering::SeqCst) {
                let mut waiting =
                    [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&fuse.0), nix::poll::PollFlags::POLLIN)];
                if nix::poll::poll(&mut waiting, 5_u8).unwrap() == 0 {
                    continue;
                }
                let Ok(_) = fuse.0.read(&mut request) else { continue };
                let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
                let node = u64::from_ne_bytes(request[16..24].try_into().unwrap());
                // fuse_attr of a directory.
                let attr = |node: u64| {
                    let mut attr = vec![0_u8; 88];
                    attr[..8].copy_from_slice(&node.to_ne_bytes());
                    attr[60..64].copy_from_slice(&0o40755_u32.to_ne_bytes());
                    attr[64..68].copy_from_slice(&2_u32.to_ne_bytes());
                    attr
                };
                let body: Vec<u8> = match opcode {
                    // fuse_init_out: protocol 7.31, and sizes that mean little here.
                    26 => [7_u32, 31, 0, 0, 0, 4096].iter().flat_map(|n| n.to_ne_bytes()).chain([0; 40]).collect(),
                    // LOOKUP of what tests have made.
                    1 if request[40..].starts_with(b"deep\0") => vec![],
                    // fuse_entry_out: there is a directory of any other name. Valid for no time, as the next.
                    1 => {
                        let name = request[40..].split(|byte| *byte == 0).next().unwrap();
                        let node = name
                            .iter()
                            .fold(node + 1, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
                        [node.to_ne_bytes().to_vec(), vec![0; 32], attr(node)].concat()
                    }
                    // fuse_attr_out.
                    3 => [vec![0; 16], attr(node)].concat(),
                    17 => vec![0; 80],
                    _ => vec![],
                };
                let error: i32 = match (opcode, body.is_empty()) {
                    (1, true) => -libc::ENOENT,
                    (_, true) => -libc::ENOSYS,
                    (_, false) => 0,
                };
                let length = u32::try_from(16 + body.len()).unwrap();
                let mut answer = length.to_ne_bytes().to_vec();
                answer.extend(error.to_ne_bytes());
                answer.extend(&request[8..16]);
                answer.extend(body);
                // FORGET and the like want no answer; the kernel refuses one, which is no matter.
                let _ = fuse.0.write(&answer);
            }
            fuse
        };
        std::thread::Builder::new().name("fuse".into()).spawn(work).unwrap()
    }
}

/// A FUSE file system with its daemon.
pub(crate) struct Daemon {
    pub(crate) at: PathBuf,
    stop: Arc<AtomicBool>,
    serving: std::thread::JoinHandle<Fuse>,
}

impl Daemon {
    pub(crate) fn start(at: &Path) -> Option<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let serving = Fuse::mount(at)?.serve(Arc::clone(&stop));
        Some(Self { at: at.to_owned(), stop, serving })
    }

    /// Dies; what was mounted stays, dead.
    pub(crate) fn die(self) -> PathBuf {
        self.stop.store(true, Ordering::SeqCst);
        drop(self.serving.join().unwrap());
        assert_eq!(fs::metadata(&self.at).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        self.at
    }

    /// Dies, is unmounted, and comes back.
    pub(crate) fn restart(self) -> Self {
        let at = self.die();
        super::unmount(&at);
        Self::start(&at).unwrap()
    }
}
