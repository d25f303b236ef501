//! The truncation self-test: does this kernel, through this mount, keep the content of a file that is opened with O_CREAT?
//!
//! Linux kernels with NFSv3 atomic open send CREATE(UNCHECKED) for a name they have not looked up, and rclone's NFS
//! server empties the file on it. A rename leaves its target in just that state, so each round puts a file in place by
//! rename and opens it in one of the ways programs do. The guard between kernel and rclone prevents the loss; this test
//! shows for the kernel at hand that it does, before any file of the tenant is at stake.
//!
//! It works in `.tenant-init/selftest-RANDOM/` and removes what it made. Uploads start `write_back` after the last
//! write, so normally nothing of it reaches the bucket; what does on a slow machine is deleted afterwards like any deleted file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::probe::Failure;

/// Our directory in the tenant's bucket.
const SCRATCH: &str = ".tenant-init";

/// How the directory of one test begins.
const PREFIX: &str = "selftest-";

/// What stands in the file before it is opened, and must still be there afterwards.
const CONTENT: &[u8] = b"written before\n";

/// What some of the ways add.
const ADDED: &[u8] = b"added after\n";

/// One way to open an existing file.
struct Way {
    name: &'static str,
    options: fn(&mut OpenOptions) -> &mut OpenOptions,
    adds: bool,
}

const WAYS: [Way; 4] = [
    Way {
        name: "append after replace",
        options: |open| open.append(true).create(true),
        adds: true,
    },
    Way {
        name: "open O_RDWR|O_CREAT",
        options: |open| open.read(true).write(true).create(true),
        adds: false,
    },
    Way {
        name: "open O_WRONLY|O_CREAT",
        options: |open| open.write(true).create(true),
        adds: false,
    },
    Way {
        name: "touch",
        options: |open| {
            open.write(true)
                .create(true)
                .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC)
        },
        adds: false,
    },
];

/// Rounds over all ways: the state of the kernel's name cache is not in our hand, so once is not enough.
const ROUNDS: usize = 3;

/// Runs the test through the mount at `root`.
pub(super) fn run(root: &Path) -> Result<(), Failure> {
    let scratch = root.join(SCRATCH);
    if let Err(error) = fs::create_dir(&scratch)
        && error.kind() != ErrorKind::AlreadyExists
    {
        return Err(Failure::io("make the scratch directory", &error));
    }
    remove_left_over(&scratch);
    let directory = scratch.join(format!("{PREFIX}{:016x}", fastrand::u64(..)));
    fs::create_dir(&directory).map_err(|error| Failure::io("make the scratch directory", &error))?;
    let result = check(&directory);
    remove(&directory);
    // Asked first: rclone would log the refusal as an error of its own.
    if fs::read_dir(&scratch).is_ok_and(|mut rest| rest.next().is_none()) {
        drop(fs::remove_dir(&scratch));
    }
    result
}

fn check(directory: &Path) -> Result<(), Failure> {
    for round in 0..ROUNDS {
        for (number, way) in WAYS.iter().enumerate() {
            // The second round replaces files, the first makes new names.
            let target = directory.join(format!("file-{number}"));
            try_way(way, directory, &target).map_err(|error| Failure::io(way.name, &error))?;
            let found = read(&target).map_err(|error| Failure::io(way.name, &error))?;
            let wanted = if way.adds {
                [CONTENT, ADDED].concat()
            } else {
                CONTENT.to_vec()
            };
            if found != wanted {
                let error = format!(
                    "round {}: {} bytes were written, {} are left",
                    round + 1,
                    wanted.len(),
                    found.len()
                );
                return Err(Failure {
                    step: way.name,
                    errno: None,
                    error,
                    emptied: true,
                });
            }
        }
    }
    Ok(())
}

fn try_way(way: &Way, directory: &Path, target: &Path) -> io::Result<()> {
    let fresh = directory.join("fresh");
    File::create(&fresh)?.write_all(CONTENT)?;
    fs::rename(&fresh, target)?;
    let mut file = (way.options)(&mut OpenOptions::new()).open(target)?;
    if way.adds {
        file.write_all(ADDED)?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

/// Removes what a killed self-test left. Best effort: it must not stop a start.
fn remove_left_over(scratch: &Path) {
    let Ok(entries) = fs::read_dir(scratch) else {
        return;
    };
    let left: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()))
        .map(|entry| entry.path())
        .collect();
    left.iter().for_each(|directory| remove(directory));
}

fn remove(directory: &Path) {
    drop(fs::remove_dir_all(directory));
}
