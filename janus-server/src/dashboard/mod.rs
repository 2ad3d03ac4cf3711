//! The dashboard: a page of the admin port for browsers. The binary has the page with its styles and scripts, so that
//! the page needs no other server and no build step.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | a table | the files of the page, and the headers of their answers |
//! | `page.html` | the page | the views, and the words that never change |
//! | `style.css` | styles | the colours, for light and dark; the layout, down to 360 pixels |
//! | `theme.js` | a script before the first paint | the colours chosen on an earlier visit |
//! | `main.js` | the page as a whole | which view is shown, the banner about the data, the dialog for the key |
//! | `api.js` | requests | the key, and the reading of event streams |
//! | `live.js` | the stream of live data | the stream's return after a loss, and the age of the data |
//! | `overview.js`, `topics.js`, `clients.js`, `tree.js`, `messages.js` | a view each | the view's lists, filters and forms |
//! | `samples.js` | pure | the figures of the last ten minutes |
//! | `charts.js` | charts as SVG | scales, lines, and the second under the pointer |
//! | `table.js` | tables | rows that stay while their entries are listed |
//! | `text.js` | pure | numbers with units, and strangers' texts with hidden characters made visible |
//!
//! The files are public, because they hold no data: all data comes from the API, whose rules about the key apply to the
//! page as to any other client. Names of topics and users are strangers' texts. The scripts give them to the browser
//! as text alone, and the headers below forbid the browser everything that a text mistaken for HTML would need.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::http::HeaderMap;
use hyper::{Response, header};

/// The path of the files in the table of routes.
pub(crate) const PATH: &str = "/dashboard/{file}";

const PAGE: &str = include_str!("page.html");

/// Every file that the page loads: name, type, text.
const FILES: &[(&str, &str, &str)] = &[
    ("style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("theme.js", SCRIPT, include_str!("theme.js")),
    ("main.js", SCRIPT, include_str!("main.js")),
    ("api.js", SCRIPT, include_str!("api.js")),
    ("live.js", SCRIPT, include_str!("live.js")),
    ("overview.js", SCRIPT, include_str!("overview.js")),
    ("topics.js", SCRIPT, include_str!("topics.js")),
    ("clients.js", SCRIPT, include_str!("clients.js")),
    ("tree.js", SCRIPT, include_str!("tree.js")),
    ("messages.js", SCRIPT, include_str!("messages.js")),
    ("samples.js", SCRIPT, include_str!("samples.js")),
    ("charts.js", SCRIPT, include_str!("charts.js")),
    ("table.js", SCRIPT, include_str!("table.js")),
    ("text.js", SCRIPT, include_str!("text.js")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What the page may do: run its own scripts and ask its own server. The last two rules make the browser refuse a text
/// as HTML, wherever a script would hand one over.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Whether the path is that of a file of the page.
pub(crate) fn has(path: &str) -> bool {
    text_of(path).is_some()
}

/// Whether the client is a browser that opens a page. Programs such as curl accept anything, and get the index.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let kind = range.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/html")
    })
}

/// The page.
pub(crate) fn page() -> Response<Full<Bytes>> {
    answer("text/html; charset=utf-8", PAGE)
}

/// A file of the page, by its path.
pub(crate) fn file(path: &str) -> Option<Response<Full<Bytes>>> {
    text_of(path).map(|(kind, text)| answer(kind, text))
}

fn text_of(path: &str) -> Option<(&'static str, &'static str)> {
    let name = path.strip_prefix("/dashboard/")?;
    FILES.iter().find(|(of_row, ..)| *of_row == name).map(|(_, kind, text)| (*kind, *text))
}

fn answer(kind: &str, text: &'static str) -> Response<Full<Bytes>> {
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        // The page of another version would not understand this server.
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .body(Full::new(Bytes::from_static(text.as_bytes())))
        .expect("the headers are right")
}

#[cfg(test)]
mod tests {
    use hyper::http::HeaderValue;

    use super::*;

    fn wants(accept: &str) -> bool {
        is_wanted(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())]))
    }

    #[test]
    fn a_browser_wants_the_page_and_a_program_does_not() {
        assert!(wants("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(wants("application/json, Text/HTML;q=0.5"));
        for accept in ["*/*", "", "application/json", "text/*", "text/html-fragment"] {
            assert!(!wants(accept), "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }

    #[test]
    fn the_page_and_its_scripts_load_known_files_alone() {
        let scripts = FILES.iter().map(|(.., text)| *text);
        let mut loaded = 0;
        for text in scripts.chain([PAGE]) {
            for path in text.split('"').filter(|path| path.starts_with("/dashboard/") || path.starts_with("./")) {
                let path = path.replacen("./", "/dashboard/", 1);
                assert!(has(&path), "{path} is not in the table");
                loaded += 1;
            }
        }
        assert!(loaded >= FILES.len(), "{loaded} references");
        assert!(!has("/dashboard/") && !has("/dashboard/mod.rs") && !has("/dashboard/../page.html"));
    }

    #[test]
    fn the_table_has_every_file_of_the_folder_and_the_map_names_them_all() {
        let map = include_str!("mod.rs").split("\n\n").next().unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/dashboard");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(map.contains(&format!("`{name}`")), "{name} is missing in the map");
            assert!(has(&format!("/dashboard/{name}")) || ["mod.rs", "page.html"].contains(&&*name), "{name}");
        }
    }

    #[test]
    fn no_script_makes_elements_from_text() {
        for (name, _, text) in FILES {
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser", "srcdoc"]
            {
                assert!(!text.contains(word), "{name}: {word}");
            }
            assert!(text.lines().count() < 800, "{name} is long");
        }
    }
}
