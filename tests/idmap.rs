//! What of a node's file systems can be given to pods with `hostUsers: false`: our word held against the kernel's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ::kernel::mount::copy_tree;
use linux_raw_sys::general as raw;
use mounts::{Errno, mountinfo};
use nix::mount::{MsFlags, mount};
use plan::idmap::{self, NotMappable};
use support::fuse::Fuse;
use support::{eventually, in_namespace_as_root, tmpfs};

/// A user namespace like that of a pod: its ids from 0 on are others outside.
fn user_namespace() -> File {
    let mut child =
        Command::new("unshare").args(["--user", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let of = |what: &str| format!("/proc/{}/{what}", child.id());
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    eventually("it is in a user namespace", || fs::read_link(of("ns/user")).is_ok_and(|there| there != own));
    for map in ["uid_map", "gid_map"] {
        fs::write(of(map), "0 100000 65536").unwrap();
    }
    let namespace = File::open(of("ns/user")).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    namespace
}

/// What container runtimes do: a copy of the mount, mapped before it is attached anywhere.
fn map(at: &Path, namespace: &File) -> Result<OwnedFd, Errno> {
    // By name alone: a server of FUSE would be asked, and there is none.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(at).unwrap();
    let copy = copy_tree(opened, false)?;
    let attributes = raw::mount_attr {
        attr_set: u64::from(raw::MOUNT_ATTR_IDMAP),
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).unwrap(),
    };
    let size = size_of::<raw::mount_attr>();
    #[expect(unsafe_code, reason = "the plugin itself maps nothing")]
    // SAFETY: `copy` is open, the path is an empty NUL-terminated string, and `attributes` is a live structure of the size
    // passed.
    let result = unsafe {
        libc::syscall(
            i64::from(raw::__NR_mount_setattr),
            copy.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        )
    };
    Errno::result(result).map(|_| copy)
}

fn judged(at: &Path) -> Result<(), NotMappable> {
    let table = mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
    let id = table.mounts.iter().rfind(|m| m.mount_point == at).unwrap().id;
    idmap::judge(&table, id, at).unwrap()
}

#[test]
fn what_is_offered_to_pods_with_user_namespaces_the_kernel_maps_and_what_is_refused_it_refuses() {
    in_namespace_as_root(|| {
        let root = Path::new("/mnt");
        tmpfs(root);
        let namespace = user_namespace();
        let place = |name: &str| {
            let at = root.join(name);
            fs::create_dir(&at).unwrap();
            at
        };
        for dir in ["upper", "work"] {
            place(dir);
        }
        let on = |fs_type: &str, options: &str| {
            let at = place(fs_type);
            mount(Some("t"), &at, Some(fs_type), MsFlags::empty(), Some(options)).unwrap();
            at
        };
        let mut places = vec![
            on("tmpfs", ""),
            on("ramfs", ""),
            on("overlay", "lowerdir=/mnt/tmpfs,upperdir=/mnt/upper,workdir=/mnt/work"),
            on("proc", ""),
        ];
        let fuse = place("fuse");
        let server = Fuse::mount(&fuse);
        if server.is_some() {
            places.push(fuse);
        }
        // File systems of disks, as far as the tools for them are here.
        for (fs_type, size) in [("ext4", "8M"), ("vfat", "2M"), ("xfs", "310M"), ("btrfs", "120M")] {
            let image = root.join(format!("{fs_type}.img"));
            let run = |program: &str, args: &[&str]| {
                let done = Command::new(program).args(args).output();
                done.map_err(|e| e.to_string()).and_then(|done| {
                    let said = String::from_utf8_lossy(&done.stderr).into_owned();
                    if done.status.success() { Ok(()) } else { Err(said) }
                })
            };
            let (image, at) = (image.to_str().unwrap(), place(fs_type));
            let made = run("truncate", &["--size", size, image])
                .and_then(|()| run(&format!("mkfs.{fs_type}"), &[image]))
                .and_then(|()| run("mount", &["-o", "loop", image, at.to_str().unwrap()]));
            match made {
                Ok(()) => places.push(at),
                Err(why) => println!("SKIPPED: {fs_type}: {}", why.trim()),
            }
        }
        for at in &places {
            let kernel = map(at, &namespace).map(drop);
            println!("{}: {kernel:?}", at.display());
            assert_eq!(judged(at).is_ok(), kernel.is_ok(), "{}: {:?}, {kernel:?}", at.display(), judged(at));
        }
        assert_eq!(judged(&places[0]), Ok(()));
        assert_eq!(judged(&places[1]), Err(NotMappable::FileSystem("ramfs".into())));
        // What is mapped is not mapped a second time.
        let mapped = place("mapped");
        let copy = map(&places[0], &namespace).unwrap();
        let calls = ::kernel::calls::Calls::probe();
        calls.move_to(&copy, File::open(root).unwrap(), mapped.file_name().unwrap()).unwrap();
        assert_eq!(map(&mapped, &namespace).map(drop), Err(Errno::EPERM));
        assert_eq!(judged(&mapped), Err(NotMappable::Mapped));
    });
}
