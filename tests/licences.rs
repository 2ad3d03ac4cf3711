//! Every dependency has a licence under which Janus may be used as MIT and Apache-2.0 allow.

use std::collections::BTreeMap;
use std::process::Command;

use spdx::{Expression, LicenseReq};

/// Licences with no demand but to be named.
const ALLOWED: [&str; 9] =
    ["MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unicode-3.0", "BSL-1.0"];

#[test]
fn every_dependency_has_a_licence_from_the_list() {
    let mut refused = BTreeMap::new();
    let packages = packages();
    for package in &packages {
        let (name, licence) = (package["name"].as_str().unwrap(), package["license"].as_str().unwrap_or("none given"));
        if !is_allowed(licence) {
            refused.insert(name, licence);
        }
    }
    assert!(packages.len() > 20, "cargo lists the dependencies");
    assert!(refused.is_empty(), "not on the list: {refused:#?}");
}

#[test]
fn a_licence_with_further_conditions_is_refused() {
    assert!(is_allowed("MIT OR GPL-3.0-only"), "one that is allowed is enough");
    assert!(is_allowed("MIT/Apache-2.0"), "the old way to write it");
    assert!(!is_allowed("MIT AND GPL-3.0-only"));
    assert!(!is_allowed("none given"));
}

fn packages() -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--all-features", "--locked"])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    std::mem::take(metadata["packages"].as_array_mut().unwrap())
}

fn is_allowed(licence: &str) -> bool {
    let Ok(expression) = Expression::parse_mode(licence, spdx::ParseMode::LAX) else { return false };
    expression.evaluate(|required: &LicenseReq| required.license.id().is_some_and(|id| ALLOWED.contains(&id.name)))
}
