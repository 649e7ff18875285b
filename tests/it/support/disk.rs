//! Small file systems of a test's own, which only root can make.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In memory.
    Tmpfs,
    /// With a journal, in a file.
    Ext4,
    /// Without.
    Ext4WithoutJournal,
}

/// A mounted file system of 24 MB, gone with the value.
pub struct SmallDisk {
    at: PathBuf,
    kind: Kind,
    /// What it lies in, unless it is a tmpfs.
    image: PathBuf,
}

impl SmallDisk {
    /// On the directory `at`, which is made. `None`, and a sentence on it, where this machine does not allow it.
    pub fn mount(at: &Path, kind: Kind) -> Option<Self> {
        let image = at.with_extension("image");
        Self::mount_image(at, kind, image)
    }

    /// The same with its image elsewhere.
    pub fn mount_image(at: &Path, kind: Kind, image: PathBuf) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount a small disk");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let disk = Self {
            at: at.to_owned(),
            kind,
            image,
        };
        let mounted = match kind {
            Kind::Tmpfs => run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=24m", "posthaste-test"])
                .arg(at)),
            _ => disk.make_ext4().and_then(|()| disk.mount_ext4()),
        };
        match mounted {
            Ok(()) => Some(disk),
            Err(error) if kind != Kind::Tmpfs => {
                eprintln!("skipped: no {kind:?} on a loop device here: {error}");
                None
            }
            Err(error) => panic!("root cannot mount a tmpfs: {error}"),
        }
    }

    fn make_ext4(&self) -> Result<(), String> {
        let file = std::fs::File::create(&self.image).unwrap();
        file.set_len(24 << 20).unwrap();
        let journal = match self.kind {
            Kind::Ext4WithoutJournal => &["-O", "^has_journal"][..],
            // The smallest that there is.
            _ => &["-J", "size=1"][..],
        };
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "1024", "-m", "0"])
            .args(journal)
            .arg(&self.image))
    }

    /// As a disk that meets an error: read-only from then on.
    fn mount_ext4(&self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-o", "loop,errors=remount-ro"])
            .args([&self.image, &self.at]))
    }

    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// As a file system does that finds itself damaged: it takes no write any more, from nobody.
    pub fn turn_read_only(&self) {
        let device = Command::new("findmnt")
            .args(["-no", "SOURCE"])
            .arg(&self.at)
            .output()
            .unwrap();
        let device = String::from_utf8(device.stdout).unwrap();
        let name = device.trim().trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .open(&trigger)
            .unwrap();
        file.write_all(b"posthaste-test").unwrap();
    }

    /// Unmounts it, has it repaired, and mounts it again, as an operator would.
    pub fn repair(&self) {
        run(Command::new("umount").arg(&self.at)).unwrap();
        let checked = Command::new("e2fsck").arg("-fy").arg(&self.image).output();
        // 0: nothing was wrong; 1: repaired.
        let checked = checked.unwrap();
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
        self.mount_ext4().unwrap();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        // The temporary directory could not remove it while it was a mount point.
        let _ = self.at.parent().map(std::fs::remove_dir_all);
    }
}
