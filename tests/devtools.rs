//! A tab of a real browser, driven by the DevTools protocol: clicks and typing as by a person, conditions on the page,
//! and everything of which the browser's console complains.

use std::net::TcpStream;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::browser_run::Browser;
use crate::cli_run::PATIENCE;

/// A tab. The browser ends when the tab is dropped.
pub(crate) struct Tab {
    browser: Browser,
    socket: WebSocket<TcpStream>,
    session: Value,
    last_id: u64,
    troubles: Vec<String>,
}

impl Tab {
    /// A tab of this width that shows nothing yet, so that no complaint of the first page is missed.
    pub(crate) fn start(width: u32) -> Self {
        let browser = Browser::start("about:blank", None);
        let address = browser.devtools();
        let host = address.trim_start_matches("ws://").split('/').next().unwrap();
        let stream = TcpStream::connect(host).unwrap();
        // Only a browser that hangs gets here: conditions end in the page, with an error that says more.
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        let (socket, _) = client(&address, stream).unwrap();
        let mut tab = Self { browser, socket, session: Value::Null, last_id: 0, troubles: Vec::new() };
        let target = tab.call("Target.createTarget", &json!({"url": "about:blank"}))["targetId"].clone();
        let session = tab.call("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        tab.session = session["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log"] {
            tab.call(&format!("{domain}.enable"), &json!({}));
        }
        tab.resize(width);
        tab
    }

    /// Gives the tab the size of another screen.
    pub(crate) fn resize(&mut self, width: u32) {
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Tells pages which colours the system prefers: `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) {
        let answer = self.call("Page.navigate", &json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
        self.until("document.readyState === 'complete'");
    }

    /// Loads the page anew. What the tab keeps for the page's site stays.
    #[track_caller]
    pub(crate) fn reload(&mut self) {
        let url = self.eval("location.href");
        // Of the same address with another fragment, a browser would load nothing.
        self.open("about:blank");
        self.open(url.as_str().unwrap());
    }

    /// The value of an expression, or of its promise.
    #[track_caller]
    pub(crate) fn eval(&mut self, script: &str) -> Value {
        let parameters = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", &parameters);
        let failure = &answer["exceptionDetails"];
        assert!(failure.is_null(), "{script}\n{failure}\n{:?}\n{}", self.troubles, self.browser.log());
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true. The page looks again with each change and each frame.
    #[track_caller]
    pub(crate) fn until(&mut self, condition: &str) {
        let patience = PATIENCE.as_millis();
        self.eval(&format!(
            "new Promise((resolve, reject) => {{
               const end = performance.now() + {patience};
               const look = () => {{
                 if ({condition}) resolve(true);
                 else if (performance.now() > end) reject(new Error('still waiting; the page shows: ' + document.body.innerText.slice(0, 3000)));
                 else setTimeout(look, 20);
               }};
               look();
             }})"
        ));
    }

    /// Waits for an element, and clicks in its middle, as a mouse does: something that covers the element gets the click.
    #[track_caller]
    pub(crate) fn click(&mut self, selector: &str) {
        self.until(&format!(
            "(() => {{
               const element = document.querySelector({selector:?});
               if (!element || element.disabled) return false;
               element.scrollIntoView({{ block: 'center', behavior: 'instant' }});
               const box = element.getBoundingClientRect();
               const at = [box.x + box.width / 2, box.y + box.height / 2];
               const hit = document.elementFromPoint(...at);
               window.clickAt = at;
               return box.width > 0 && (element.contains(hit) || hit?.closest('label')?.contains(element));
             }})()"
        ));
        let at = self.eval("window.clickAt");
        for (kind, buttons) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)] {
            let event = json!({
                "type": kind, "x": at[0], "y": at[1], "button": "left", "buttons": buttons, "clickCount": 1
            });
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Clicks into a field and types in place of its text.
    #[track_caller]
    pub(crate) fn fill(&mut self, selector: &str, text: &str) {
        self.click(selector);
        self.eval(&format!("document.querySelector({selector:?}).select()"));
        self.call("Input.insertText", &json!({"text": text}));
    }

    #[track_caller]
    pub(crate) fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", &json!({"type": kind, "key": key, "code": key}));
        }
    }

    /// The shown text of an element.
    #[track_caller]
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({selector:?})?.innerText"));
        text.as_str().unwrap_or_else(|| panic!("no element {selector}")).to_owned()
    }

    /// What the browser's console complains of: exceptions, errors, and violations of the page's policy. Statuses of
    /// answers are left out: the page speaks of these.
    pub(crate) fn troubles(&mut self) -> &[String] {
        // The answer comes after every event so far.
        self.eval("1");
        &self.troubles
    }

    #[track_caller]
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": parameters});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let text = match self.socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(_) => continue,
                Err(error) => panic!("{method}: {error}; the browser's log:\n{}", self.browser.log()),
            };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let is_trouble = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" => true,
            "Runtime.consoleAPICalled" => ["error", "warning", "assert"].map(Value::from).contains(&parameters["type"]),
            "Log.entryAdded" => parameters["entry"]["level"] != "info" && parameters["entry"]["source"] != "network",
            _ => false,
        };
        if is_trouble {
            self.troubles.push(parameters.to_string());
        }
    }
}
