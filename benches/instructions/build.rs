//! Tells the program which compiler built it: the number of instructions depends on that.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo names the compiler");
    let version = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    let version = String::from_utf8(version.stdout).expect("a version is text");
    println!("cargo::rustc-env=BUILT_BY={}", version.trim());
    let target = env::var("TARGET").expect("cargo names the target");
    println!("cargo::rustc-env=BUILT_FOR={target}");
}
