//! A Chromium without a window, told what to do over its debugging pipe. Knows pages, keys and pointers, not what is
//! on them.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process;

/// What an answer may take: a page of megabytes on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running browser with one page. It ends with its test.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: String,
    calls: u64,
    events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    /// Starts it with an empty page of this size in pixels.
    ///
    /// # Errors
    /// If it does not start or does not answer.
    pub fn start(width: u32, height: u32) -> Result<Self> {
        let profile = TempDir::new()?;
        let mut command = process::command("/bin/sh", None);
        // It is told what to do on descriptor 3 and answers on 4, each message ended by a NUL.
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"]);
        command.args(["--headless", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--mute-audio"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-breakpad"]);
        command.args(["--disable-dev-shm-usage", "--hide-scrollbars"]);
        if crate::root_missing().is_none() {
            // Its sandbox refuses root, and the page is ours.
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let mut child = start(command)?;
        let to = child.stdin.take().context("no standard input")?;
        let mut reader = BufReader::new(child.stdout.take().context("no standard output")?);
        let (send, from) = mpsc::channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).is_ok_and(|count| count > 0) {
                message.pop();
                let Ok(told) = serde_json::from_slice(&message) else { return };
                if send.send(told).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser =
            Self { child, to, from, session: String::new(), calls: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        browser.resize(width, height)?;
        Ok(browser)
    }

    /// Calls a method of the debugging protocol.
    ///
    /// # Errors
    /// The browser's, or none of its answers.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes).with_context(|| format!("cannot call {method}"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.from.recv_timeout(left).with_context(|| format!("no answer to {method}"))?;
            if answer["id"] != self.calls {
                self.events.push(answer);
            } else if let Some(error) = answer.get("error") {
                bail!("{method}: {error}");
            } else {
                return Ok(answer["result"].clone());
            }
        }
    }

    /// Sets the page's size.
    ///
    /// # Errors
    /// The browser's.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).map(drop)
    }

    /// Whether the user likes it dark.
    ///
    /// # Errors
    /// The browser's.
    pub fn set_dark(&mut self, dark: bool) -> Result<()> {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// Opens a file, and waits until it has loaded.
    ///
    /// # Errors
    /// The browser's.
    pub fn open(&mut self, file: &Path, hash: &str) -> Result<()> {
        // From a file to itself with another hash would not load anew.
        self.call("Page.navigate", json!({ "url": "about:blank" }))?;
        let url = format!("file://{}{hash}", file.display());
        let opened = self.call("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = opened.get("errorText") {
            bail!("{url}: {error}");
        }
        self.wait_for("document.readyState === 'complete'").map(drop)
    }

    /// Runs a script in each page before all that is its own.
    ///
    /// # Errors
    /// The browser's.
    pub fn before_pages(&mut self, script: &str) -> Result<()> {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).map(drop)
    }

    /// What an expression in the page has for a value.
    ///
    /// # Errors
    /// What it throws.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let call = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", call)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// The text of an element.
    ///
    /// # Errors
    /// If there is none.
    pub fn text(&mut self, selector: &str) -> Result<String> {
        let text = self.value(&format!("document.querySelector({selector:?}).textContent"))?;
        Ok(text.as_str().context("no text")?.to_owned())
    }

    /// Waits until an expression is true, looking at each frame that the page draws.
    ///
    /// # Errors
    /// If it stays false.
    pub fn wait_for(&mut self, expression: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.value(expression)? != true {
            if Instant::now() > deadline {
                bail!("never true: {expression}");
            }
            self.painted()?;
        }
        Ok(())
    }

    /// Waits until the page has drawn what it was asked to.
    ///
    /// # Errors
    /// The browser's.
    pub fn painted(&mut self) -> Result<()> {
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
            .map(drop)
    }

    /// Types a key as people do: `a`, `?`, `Enter`, `ArrowUp`.
    ///
    /// # Errors
    /// The browser's.
    pub fn key(&mut self, key: &str) -> Result<()> {
        let text = match key {
            "Enter" => "\r",
            _ if key.chars().count() == 1 => key,
            _ => "",
        };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "text": text }))?;
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key }))?;
        self.painted()
    }

    /// Types text.
    ///
    /// # Errors
    /// The browser's.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({ "text": text }))?;
        self.painted()
    }

    /// Moves the pointer.
    ///
    /// # Errors
    /// The browser's.
    pub fn point(&mut self, x: f64, y: f64) -> Result<()> {
        self.call("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": x, "y": y }))?;
        self.painted()
    }

    /// Clicks; `modifiers` as the protocol has them, 1 for Alt.
    ///
    /// # Errors
    /// The browser's.
    pub fn click(&mut self, x: f64, y: f64, modifiers: u32) -> Result<()> {
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1, "modifiers": modifiers });
            self.call("Input.dispatchMouseEvent", event)?;
        }
        self.painted()
    }

    /// A picture of the page, as PNG in base64.
    ///
    /// # Errors
    /// The browser's.
    pub fn picture(&mut self) -> Result<String> {
        self.painted()?;
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        Ok(picture["data"].as_str().context("no picture")?.to_owned())
    }

    /// What the page complained about since the start: exceptions, errors and warnings of its own and of the browser.
    pub fn complaints(&self) -> Vec<String> {
        let complaint = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => event["params"]["type"] != "log",
            Some("Log.entryAdded") => true,
            _ => false,
        };
        self.events.iter().filter(complaint).map(|event| event["params"].to_string()).collect()
    }

    /// Every address that was asked for since the start.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        requests.filter_map(|event| Some(event["params"]["request"]["url"].as_str()?.to_owned())).collect()
    }
}

fn start(mut command: Command) -> Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().context("cannot start chromium")
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends its own children if it is asked; killed, they notice later.
        self.session.clear();
        let _ = self.call("Browser.close", json!({}));
        // Its end of the pipe closes when it has gone.
        while self.from.recv_timeout(Duration::from_secs(10)).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
