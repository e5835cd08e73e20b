//! Open descriptors as something that can be sent: over a Unix socket to a process that takes over, and
//! not by accident to a program that is started.
#![expect(
    unsafe_code,
    reason = "descriptors arrive as numbers, and are marked between fork and exec"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sends `message` together with `descriptors`, [`DESCRIPTORS_MAX`] at most. The other side has descriptors
/// of its own to the same open files.
///
/// # Errors
/// Whatever sendmsg(2) reports, or when the message was not sent whole.
pub fn send_descriptors(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[_] = if raw.is_empty() { &[] } else { &rights };
    let parts = [IoSlice::new(message)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None)?;
    match sent == message.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives one message into `message`, and the descriptors that came with it; they close when they are
/// dropped, and when a program is started. Returns the bytes of the message, 0 if the other side is gone.
///
/// # Errors
/// Whatever recvmsg(2) reports, or when the message was longer than the room for it.
pub fn receive_descriptors(
    socket: BorrowedFd<'_>,
    message: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(message)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for part in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else knows of
            // them, so they have one owner.
            descriptors.extend(raw.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    let cut = MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC;
    if received.flags.intersects(cut) {
        return Err(io::Error::other("the message is too long"));
    }
    Ok((received.bytes, descriptors))
}

/// Has a program that is started by `command` inherit nothing but the three standard streams. Sockets that
/// io_uring accepted are not marked as closing by themselves, and a client would wait for ever for the end
/// of a connection that somebody else holds open as well.
pub fn inherit_nothing(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only system calls are made: no allocation, no lock.
    unsafe { command.pre_exec(close_on_exec) }
}

fn close_on_exec() -> io::Result<()> {
    let first = libc::STDERR_FILENO + 1;
    // SAFETY: changes a flag of descriptors and touches no memory; unknown numbers are refused.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if outcome == 0 {
        return Ok(());
    }
    // Before Linux 5.11.
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place to write to.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX);
    for fd in first..end {
        // SAFETY: as above; a number that is not open is refused.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Descriptors that one message carries at most; the kernel's own bound is 253.
pub const DESCRIPTORS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn what_arrives_is_another_handle_to_the_same_file() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let path = std::env::temp_dir().join(format!("llm-router-passing-{}", std::process::id()));
        let mut file = File::create_new(&path).unwrap();
        let descriptors: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| file.as_fd()).collect();
        send_descriptors(near.as_fd(), b"files", &descriptors).unwrap();
        drop(descriptors);
        file.write_all(b"written later").unwrap();
        drop(file);
        let mut message = [0; 16];
        let (bytes, mut received) = receive_descriptors(far.as_fd(), &mut message).unwrap();
        assert_eq!(&message[..bytes], b"files");
        assert_eq!(received.len(), DESCRIPTORS_MAX);
        let mut same = File::from(received.pop().unwrap());
        assert_eq!(same.stream_position().unwrap(), 13);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_message_may_come_without_descriptors_and_must_fit() {
        let (near, far) = UnixDatagram::pair().unwrap();
        send_descriptors(near.as_fd(), b"nothing", &[]).unwrap();
        let mut message = [0; 7];
        let (bytes, received) = receive_descriptors(far.as_fd(), &mut message).unwrap();
        assert_eq!((bytes, received.len()), (7, 0));
        send_descriptors(near.as_fd(), b"too long", &[]).unwrap();
        assert!(receive_descriptors(far.as_fd(), &mut message).is_err());
    }

    #[test]
    fn a_program_that_is_started_has_the_standard_streams_only() {
        let (near, _far) = UnixDatagram::pair().unwrap();
        // Open, and not marked: as io_uring leaves what it accepts.
        let leaking = nix::unistd::dup(near.as_fd()).unwrap();
        let listing = |command: &mut Command| {
            let output = command.args(["-c", "ls /proc/$$/fd"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let number = leaking.as_raw_fd().to_string();
        let inherits = listing(&mut Command::new("sh"));
        assert!(inherits.lines().any(|fd| fd == number), "{inherits}");
        let clean = listing(inherit_nothing(&mut Command::new("sh")));
        assert!(!clean.lines().any(|fd| fd == number), "{clean}");
    }
}
