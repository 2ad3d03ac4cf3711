//! Licences: every dependency allows the use of Janus under MIT or Apache-2.0, and every package holds its licence
//! texts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use spdx::{Expression, LicenseReq};

/// Licences with no demand but to be named.
const ALLOWED: [&str; 10] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "BSL-1.0",
    "BlueOak-1.0.0",
];

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
fn every_published_package_has_the_licence_texts_and_a_readme() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let text = |name: &str| std::fs::read_to_string(format!("{root}/{name}")).unwrap();
    let mut published = 0;
    for package in packages().iter().filter(|package| package["source"].is_null() && package["publish"].is_null()) {
        let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
        for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let file = folder.join(name);
            let inside = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!(inside, text(name), "{}", file.display());
        }
        assert_eq!(package["readme"], "README.md", "{}", folder.display());
        assert!(folder.join("README.md").exists(), "{}", folder.display());
        published += 1;
    }
    assert!(published >= 2, "cargo lists the packages of this workspace");
    // The package for npm, whose own tests look for the files in the packed package.
    for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert_eq!(text(&format!("janus-js/{name}")), text(name), "janus-js/{name}");
    }
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
