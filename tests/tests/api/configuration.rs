//! Configurations that cannot be used: exit code 2, every mistake with its place, and nothing started.

use meridian_tests::binary;
use std::process::Output;

const RIGHT: &str = "region = \"test-1\"\nzones = [\"test-1a\"]\n[registry]\nkind = \"embedded\"\n[http]\nlisten = \"127.0.0.1:0\"\n";

fn run(text: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = binary::command();
    command.args(arguments).arg(&path).envs(environment.iter().copied());
    let output = command.output().unwrap();
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["gateway.toml"], "a refused configuration left files behind");
    output
}

/// Both commands refuse it with code 2 and name the place.
#[track_caller]
fn check_refused(text: &str, environment: &[(&str, &str)], places: &[&str]) {
    for arguments in [&["config", "check"][..], &["gateway", "--config"]] {
        let output = run(text, arguments, environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} of {text:?}: {said}");
        for place in places {
            assert!(said.contains(place), "{arguments:?} of {text:?} does not name {place}: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_right_configuration_is_taken() {
    let output = run(RIGHT, &["config", "check"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_wrong_one_is_refused_whole_with_every_place() {
    let with = |more: &str| format!("{RIGHT}{more}");
    check_refused("", &[], &["blank", "region", "registry"]);
    check_refused(" \n\t\n", &[], &["blank"]);
    check_refused("region = ", &[], &["line 1"]);
    check_refused("\u{feff}\0", &[], &["gateway.toml"]);
    check_refused("region = \"test-1\"\nzones = []\n[registry]\nkind = \"embedded\"\n", &[], &["zones"]);
    check_refused(&RIGHT.replace("test-1\"", "TEST\""), &[], &["region"]);
    check_refused(&RIGHT.replace("embedded", "zookeeper"), &[], &["registry", "embedded", "etcd"]);
    check_refused(&RIGHT.replace("\"embedded\"", "\"etcd\"\nendpoints = []"), &[], &["registry.endpoints"]);
    check_refused(
        &RIGHT.replace("\"embedded\"", "\"etcd\"\nendpoints = [\"127.0.0.1:2379\"]"),
        &[],
        &["registry.endpoints", "http://"],
    );
    check_refused(&RIGHT.replace("127.0.0.1:0", "0.0.0.0:0"), &[], &["http.listen", "http.reads"]);
    check_refused(&RIGHT.replace("127.0.0.1:0", "localhost"), &[], &["http.listen"]);
    check_refused(&RIGHT.replace("127.0.0.1:0", "127.0.0.1:65536"), &[], &["http.listen"]);
    check_refused(&with("workers = 0\nredas = 1\n"), &[], &["http.redas"]);
    check_refused(&with("workers = 0\n"), &[], &["http.workers"]);
    check_refused(&with("[lookups]\nknown_for = \"soon\"\n"), &[], &["lookups.known_for"]);
    check_refused(&with("[telemetry]\nsample = 2.0\n"), &[], &["telemetry.sample"]);
    check_refused(&with("[htpp]\n"), &[], &["htpp"]);
    check_refused(&with("[policies]\nmin_lookups = 1001\n"), &[], &["policies.min_lookups", "1000"]);
    check_refused(&with("[http.tls]\ncertificate = \"none.pem\"\n"), &[], &["http.tls"]);
    // Several mistakes come together.
    check_refused(
        &with("workers = 0\n[telemetry]\nsample = 2.0\n"),
        &[],
        &["http.workers", "telemetry.sample"],
    );
    // What cannot be read hides nothing of what is wrong otherwise.
    check_refused(
        &with("workers = \"many\"\nredas = 1\n[telemetry]\nsample = 2.0\n[lookups]\nknown_for = \"soon\"\n"),
        &[],
        &["http.workers", "http.redas", "telemetry.sample", "lookups.known_for"],
    );
    check_refused(RIGHT, &[("MERIDIAN__HTTP__LISTEN", "nowhere")], &["http.listen"]);
}

#[test]
fn identity_that_would_let_in_the_wrong_ones_is_refused() {
    let with = |more: &str| format!("{RIGHT}{more}");
    let issuer = "[[identity.issuers]]\nissuer = \"https://id.example\"\naudience = \"meridian\"\n";
    check_refused(&with(issuer), &[], &["identity.issuers"]);
    check_refused(&with(&format!("{issuer}jwks_file = \"none.jwks\"\n")), &[], &["jwks_file", "none.jwks"]);
    check_refused(
        &with(&format!("{issuer}jwks_file = \"gateway.toml\"\nalgorithms = [\"HS256\"]\n")),
        &[],
        &["algorithms"],
    );
    let unbound =
        "[[identity.rules]]\nissuer = \"https://id.example\"\nsubject = \"s\"\nrole = \"workload\"\n";
    check_refused(&with(unbound), &[], &["identity.rules"]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = binary::command().args(["gateway", "--config", "/nowhere/gateway.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/gateway.toml"));
}
