//! The place itself: what is dropped is lost, and nothing stays behind.

use meridian_tests::namespaces::{NAMES, Namespaces, all};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Nobody listens on it. A refusal is an answer; what is lost gets none.
const CLOSED: u16 = 9;

/// Whether a region is answered by another, in the end.
fn hears(namespaces: &Namespaces, from: usize, to: usize) -> bool {
    answered(namespaces, from, to, "10")
}

/// Whether it is not.
fn is_deaf(namespaces: &Namespaces, from: usize, to: usize) -> bool {
    !answered(namespaces, from, to, "0.5")
}

fn answered(namespaces: &Namespaces, from: usize, to: usize, seconds: &str) -> bool {
    let asked = format!("exec 3<>/dev/tcp/{}/{CLOSED}", namespaces.home(to).host());
    let mut bash = namespaces.home(from).command("timeout");
    let output = bash.args([seconds, "bash", "-c", &asked]).output().unwrap();
    String::from_utf8_lossy(&output.stderr).contains("refused")
}

/// Whether this process is.
fn hear(namespaces: &Namespaces, at: usize) -> bool {
    let address = SocketAddr::new(namespaces.home(at).host(), CLOSED);
    let answer = TcpStream::connect_timeout(&address, Duration::from_secs(5));
    answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn is_there(name: &String) -> bool {
    all().iter().any(|(found, _)| found == name)
}

#[test]
fn what_is_dropped_is_lost_without_a_word_and_only_between_those_two() {
    let namespaces = Namespaces::make(3);
    let (hears, hear) = (|from, to| hears(&namespaces, from, to), |at| hear(&namespaces, at));
    assert!(hears(0, 1) && hears(1, 0) && hear(0) && hear(1));
    namespaces.drop_from(0, 1);
    assert!(is_deaf(&namespaces, 0, 1), "what is asked is not lost");
    assert!(is_deaf(&namespaces, 1, 0), "what is answered is not lost");
    assert!(hears(0, 2) && hears(2, 1) && hear(0) && hear(1));
    namespaces.drop_nothing();
    assert!(hears(0, 1) && hears(1, 0));
}

#[test]
fn worlds_beside_each_other_are_apart_and_leave_nothing() {
    let (one, other) = (Namespaces::make(1), Namespaces::make(1));
    assert_ne!(one.home(0).host(), other.home(0).host());
    let names = [one.names(), other.names()].concat();
    assert!(names.iter().all(is_there));
    // What still runs there is ended too.
    let mut left = one
        .home(0)
        .command("sh")
        .args(["-c", "echo; exec sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = left.stdout.take().unwrap().read(&mut [0]).unwrap();
    assert_eq!(said, 1, "it did not start");
    drop((one, other));
    assert!(!left.wait().unwrap().success());
    assert!(!names.iter().any(is_there));
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    // Ended and reaped, so that nobody has its number for now.
    let mut dead = Command::new("true").spawn().unwrap();
    let name = format!("{NAMES}-{}-0-router", dead.id());
    assert!(dead.wait().unwrap().success());
    assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success());
    let _next = Namespaces::make(1);
    assert!(!is_there(&name));
}
