//! The live page of the admin endpoint, in a real browser: headless Chromium, led over WebDriver.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::admin::{ask, get, metrics, sum};
use common::child::Bounded;
use common::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

/// A browser of this test's own. Dropped, it ends.
struct Browser {
    /// Held until the session has ended.
    _driver: Bounded,
    at: SocketAddr,
    /// The session's path.
    session: String,
}

impl Browser {
    /// `None`: there is none on this machine.
    fn start() -> Option<Self> {
        if !has("chromedriver") || !has("chromium") {
            return None;
        }
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = child::spawn(&mut driver, child::LIFE);
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = said.find_map(|line| {
            let line = line.unwrap();
            line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        // What it says later must not block it.
        std::thread::spawn(move || said.for_each(drop));
        let at = SocketAddr::from(([127, 0, 0, 1], port.unwrap()));
        let mut browser = Self { _driver: driver, at, session: String::new() };
        // Without a sandbox, since tests may run as root: it opens nothing but our own page.
        let flags =
            json!(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": { "args": flags } });
        let made = browser.post("/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (body, at) = (body.to_string(), self.at);
        let answer = ask(
            at,
            &format!(
                "POST {}{path} HTTP/1.1\r\nHost: {at}\r\nContent-Length: {}\r\n\r\n{body}",
                self.session,
                body.len()
            ),
        );
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str::<Value>(&answer.body).unwrap()["value"].take()
    }

    fn open(&self, at: SocketAddr) {
        self.post("/url", &json!({ "url": format!("http://{at}/") }));
    }

    /// What a piece of JavaScript returns.
    fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The text of the element with this id.
    fn text(&self, id: &str) -> String {
        let said = self.run(&format!("return document.getElementById('{id}')?.textContent ?? ''"));
        said.as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser before it answers. Without an answer nothing else would help.
        if let Ok(mut driver) = TcpStream::connect(self.at) {
            let _ = write!(
                driver,
                "DELETE {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.session, self.at
            );
            let _ = driver.set_read_timeout(Some(PATIENCE));
            let _ = driver.read(&mut [0; 100]);
        }
    }
}

#[test]
fn the_page_shows_the_metrics_kills_and_says_when_the_server_is_gone() {
    let Some(browser) = Browser::start() else { return };
    let flags = ["--admin", "127.0.0.1:0", "--time-callbacks"];
    let server = Start::echo(Mode::DEFAULT).args(&flags).run();
    let at = server.admin();
    let mut clients = server.connect_many(7);
    clients.iter_mut().for_each(|client| ping(client, &[7; 1000]));
    browser.open(at);
    eventually("the page shows the connections", PATIENCE, || browser.text("connections") == "7");
    assert_eq!(browser.text("state"), "Serving");
    let now = metrics(at);
    let cell = |row: usize, column: usize| {
        let cells = format!("#loops tbody tr:nth-child({row}) td:nth-child({column})");
        browser.run(&format!("return document.querySelector('{cells}').textContent"))
    };
    for n in 0..2 {
        assert_eq!(cell(n + 1, 1), n.to_string());
        let open = now[&format!("net_core_connections_open{{loop=\"{n}\"}}")];
        assert_eq!(cell(n + 1, 2), open.to_string());
    }
    assert_eq!(browser.run("return document.querySelectorAll('#loops tbody tr').length"), 2);
    eventually("bytes per second are shown", PATIENCE, || {
        clients.iter_mut().for_each(|client| ping(client, &[7; 50_000]));
        let said = browser.text("in");
        said.ends_with("B/s") && !said.starts_with("0 ")
    });
    eventually("it is shown what takes the time", PATIENCE, || {
        clients.iter_mut().for_each(|client| ping(client, &[7; 50_000]));
        browser.text("busiest").starts_with("on_data, ")
    });
    browser.run("const by = document.getElementById('by'); by.value = 'cpu'; by.onchange()");
    eventually("and who", PATIENCE, || {
        let times = "return [...document.querySelectorAll('#top tbody tr td:nth-child(8)')]
           .filter(cell => cell.textContent.endsWith(' s')).length";
        browser.run(times) == 7
    });
    let peer = clients[3].local_addr().unwrap().to_string();
    let press = format!(
        "const row = [...document.querySelectorAll('#top tbody tr')].find(row =>
           row.cells[1].textContent === '{peer}');
         row?.querySelector('button').click();
         return !!row"
    );
    eventually("its row is there", PATIENCE, || browser.run(&press) == true);
    assert_eq!(read_to_end(&mut clients[3], PATIENCE), (vec![], End::Rst));
    eventually("it is said", PATIENCE, || browser.text("said").ends_with(": killed"));
    eventually("and counted", PATIENCE, || browser.text("connections") == "6");
    clients.remove(3);
    clients.iter_mut().for_each(|client| ping(client, b"not touched"));
    assert_eq!(sum(&metrics(at), "net_core_connections_closed_total"), 1.0);
    // All that it loaded came from the endpoint.
    let places = browser.run(
        "return [...new Set(performance.getEntriesByType('resource')
           .map(entry => new URL(entry.name)).filter(url => url.protocol !== 'data:')
           .map(url => url.origin))]",
    );
    assert_eq!(places, json!([format!("http://{at}")]));
    drop(clients);
    server.finish();
    eventually("that the server is gone is said", PATIENCE, || {
        browser.text("state").starts_with("The server does not answer")
    });
    let again = Start::echo(Mode::DEFAULT).args(&["--admin", &at.to_string()]).run();
    eventually("and that it is back", PATIENCE, || browser.text("state") == "Serving");
    again.finish();
}

/// With the flags of a first start nothing times callbacks, and the time of each connection is null: the
/// page threw at that, and an empty catch hid it, so that it listed nobody and had no button.
#[test]
fn the_page_lists_and_kills_where_no_callback_is_timed() {
    let Some(browser) = Browser::start() else { return };
    let server = Start::echo(Mode::DEFAULT).args(&["--admin", "127.0.0.1:0"]).run();
    let mut clients = server.connect_many(3);
    clients.iter_mut().for_each(|client| ping(client, b"here"));
    browser.open(server.admin());
    let rows = "return document.querySelectorAll('#top tbody tr button').length";
    eventually("each has a row and a button", PATIENCE, || browser.run(rows) == 3);
    let times = "return [...document.querySelectorAll('#top tbody tr td:nth-child(8)')]
       .every(cell => cell.textContent === '–')";
    assert_eq!(browser.run(times), true);
    browser.run("document.querySelector('#top tbody tr button').click()");
    eventually("it is said", PATIENCE, || browser.text("said").ends_with(": killed"));
    eventually("and counted", PATIENCE, || browser.text("connections") == "2");
    let choose = "const by = document.getElementById('by'); by.value";
    browser.run(&format!("{choose} = 'cpu'; by.onchange()"));
    eventually("why there is none by time", PATIENCE, || {
        browser.text("said").contains("not timed")
    });
    browser.run(&format!("{choose} = 'bytes'; by.onchange()"));
    eventually("those that are left", PATIENCE, || browser.run(rows) == 2);
    assert_eq!(browser.text("fault"), "", "and nothing was wrong");
    server.finish();
}

/// What is wrong with the page itself is said on it.
#[test]
fn a_fault_of_the_page_is_seen_on_it() {
    let Some(browser) = Browser::start() else { return };
    let server = Start::echo(Mode::DEFAULT).args(&["--admin", "127.0.0.1:0"]).run();
    browser.open(server.admin());
    eventually("it serves", PATIENCE, || browser.text("state") == "Serving");
    assert_eq!(browser.text("fault"), "");
    browser.run("document.getElementById('sums').remove()");
    eventually("it is said", PATIENCE, || browser.text("fault").contains("has a fault: TypeError"));
    assert_eq!(browser.text("state"), "Serving", "the server is not to blame");
    server.finish();
}

/// The page itself is for everybody, since a browser shows no token for it; what it asks for is not.
#[test]
fn the_page_shows_the_token_that_stands_in_its_address() {
    let Some(browser) = Browser::start() else { return };
    let folder = Folder::new();
    let file = folder.0.join("token");
    std::fs::write(&file, "secret\n").unwrap();
    let flags = ["--admin", "127.0.0.1:0", "--admin-token-file", file.to_str().unwrap()];
    let server = Start::echo(Mode::DEFAULT).args(&flags).run();
    let at = server.admin();
    browser.open(at);
    eventually("it asks for it", PATIENCE, || browser.text("state").contains("a token"));
    browser.run("location.hash = 'secret'");
    eventually("and serves", PATIENCE, || browser.text("state") == "Serving");
    server.finish();
}

/// One file: nothing in it is loaded from anywhere, and a browser is told to load nothing.
#[test]
fn the_page_names_no_other_place() {
    let server = Start::echo(Mode::DEFAULT).args(&["--admin", "127.0.0.1:0"]).run();
    let page = get(server.admin(), "/");
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.field("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    for elsewhere in ["://", "src=", "@import", "url(", "innerHTML"] {
        assert!(!page.body.contains(elsewhere), "{elsewhere}");
    }
    assert!(page.body.lines().count() < 400);
}
