//! The links of the pages: each leads to a file, a folder or a heading of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use regex::Regex;

use super::page::{all_pages, root};

/// The lines outside of blocks of code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_block = false;
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            in_block ^= is_fence;
            !in_block && !is_fence
        })
        .map(|(index, line)| (index + 1, line))
        .collect()
}

/// The anchors of the headings of a page, as GitHub makes anchors.
fn anchors(text: &str) -> BTreeSet<String> {
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").expect("a pattern");
    let mut counts = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let title = link.replace_all(title.trim(), "$1").to_lowercase();
        let kept = title.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        let anchor: String = kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect();
        let count = counts.entry(anchor.clone()).and_modify(|count| *count += 1).or_insert(0_usize);
        anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
    }
    anchors
}

/// The targets of the links of a page, with their lines. A link may begin on one line and end on the next.
fn links(text: &str) -> Vec<(usize, String)> {
    let code = Regex::new("`[^`]*`").expect("a pattern");
    let link = Regex::new(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s+(\S+)").expect("a pattern");
    let mut links = Vec::new();
    for (line, text) in prose(text) {
        // The text of a link may be code; a target in code is no link.
        let text = code.replace_all(text, "code");
        links.extend(link.captures_iter(&text).filter_map(|found| {
            let target = found.get(1).or_else(|| found.get(2))?;
            Some((line, target.as_str().to_owned()))
        }));
    }
    links
}

/// `path` without `..`, which may lead through folders that are links.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
        plain
    })
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let root = root().canonicalize().unwrap();
    let mut broken = String::new();
    let mut followed = 0;
    for page in all_pages() {
        let text = fs::read_to_string(root.join(&page)).unwrap();
        for (line, target) in links(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (file, anchor) = target.split_once('#').map_or((&*target, None), |(file, anchor)| (file, Some(anchor)));
            let folder = Path::new(&page).parent().expect("a page is in a folder");
            let file = if file.is_empty() { root.join(&page) } else { plain(&root.join(folder).join(file)) };
            if !file.exists() || !file.starts_with(&root) {
                broken += &format!("{page}:{line}: {target}: no such file\n");
            } else if let Some(anchor) = anchor.filter(|_| file.extension().is_some_and(|ending| ending == "md"))
                && !anchors(&fs::read_to_string(&file).unwrap()).contains(anchor)
            {
                broken += &format!("{page}:{line}: {target}: no such heading\n");
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{broken}");
    assert!(followed > 200, "{followed} links were found");
}

#[test]
fn links_and_anchors_are_those_of_github() {
    let text = "# Two users, in `five` minutes\n## A\n## A\n```\n# no\n[a](b)\n```\nsee [`x`](#a-1) and `[c](d)`, [e\nf](g.md)\n[h]: i\n";
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["a", "a-1", "two-users-in-five-minutes"]);
    let links: Vec<_> = links(text).into_iter().map(|(_, link)| link).collect();
    assert_eq!(links, ["#a-1", "g.md", "i"]);
}
