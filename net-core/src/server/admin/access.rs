//! Decides which client may read which page of the endpoint.
//!
//! A browser may show a page of another site, on a machine that can reach the endpoint. That page can send
//! requests to the endpoint. It cannot read the answers, unless its owner has pointed the site's own name to
//! this server in the meantime (DNS rebinding). Then the browser takes both for one site. But the page cannot
//! call this server by an address.

use super::http::{Reply, Request, Status, is_address};

/// What a client must show. By default only a permitted host name, for the pages that name clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// The token that every page asks for, except `/healthz` and `/`, which is an empty frame.
    pub(crate) token: Option<String>,
    /// The host names by which a client may call the server, besides its addresses and `localhost`.
    pub(crate) names: Vec<String>,
}

impl Access {
    /// Checks the settings. The error says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_fit = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if self.token.as_deref().is_some_and(|token| !is_fit(token)) {
            return Err("a token is of visible ASCII characters, and of one at least".into());
        }
        match self.names.iter().find(|name| !is_fit(name) || name.contains([':', '/'])) {
            Some(name) => Err(format!("{name:?}: a name is that of a host, without a port")),
            None => Ok(()),
        }
    }

    /// The reply to a request that is refused. `None`: the client may have the page.
    pub(super) fn refusal(&self, request: &Request<'_>) -> Option<Reply> {
        let path = request.path;
        if let Some(token) = &self.token {
            let may = matches!(path, "/" | "/healthz") || are_equal(token, request.token);
            return (!may).then(|| Reply::status(Status::Unauthorized));
        }
        // Scrapers and probes call a server by any name. These pages say nothing of the server's clients.
        if matches!(path, "/metrics" | "/healthz") {
            return None;
        }
        let is_named = |host: &[u8]| {
            is_address(host)
                || self.names.iter().any(|own| host.eq_ignore_ascii_case(own.as_bytes()))
        };
        let what = "ask by an address, or give the server this name (Server::admin_name)\n";
        request
            .host
            .is_some_and(|host| !is_named(host))
            .then(|| Reply::text(Status::Forbidden, what))
    }
}

/// Compares in a time that does not depend on where the tokens differ.
fn are_equal(token: &str, shown: Option<&[u8]>) -> bool {
    let shown = shown.unwrap_or_default();
    let differs = token.bytes().zip(shown).fold(0, |so_far, (a, b)| so_far | (a ^ b));
    differs == 0 && token.len() == shown.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(path: &'a str, host: Option<&'a str>, token: Option<&'a str>) -> Request<'a> {
        Request {
            method: "GET",
            path,
            query: "",
            keeps_alive: true,
            is_foreign: false,
            host: host.map(str::as_bytes),
            token: token.map(str::as_bytes),
        }
    }

    fn status(access: &Access, request: &Request<'_>) -> Status {
        access.refusal(request).map_or(Status::Ok, |reply| reply.status)
    }

    #[test]
    fn who_calls_it_by_a_foreign_name_learns_nothing_of_its_clients() {
        let named = Access { names: vec!["Ops.internal".into()], ..Access::default() };
        for path in ["/", "/loops", "/connections", "/connections/1/kill"] {
            for host in ["127.0.0.1", "[::1]", "10.1.2.3", "localhost", "LOCALHOST"] {
                assert_eq!(
                    status(&Access::default(), &request(path, Some(host), None)),
                    Status::Ok
                );
            }
            for host in ["evil.example", "", "127.0.0.1.evil.example", "[::1].evil.example"] {
                let asked = request(path, Some(host), None);
                assert_eq!(status(&Access::default(), &asked), Status::Forbidden, "{host} {path}");
                assert_eq!(status(&named, &asked), Status::Forbidden, "{host} {path}");
            }
            assert_eq!(status(&named, &request(path, Some("ops.INTERNAL"), None)), Status::Ok);
            assert_eq!(status(&named, &request(path, None, None)), Status::Ok, "no browser");
        }
        for path in ["/metrics", "/healthz"] {
            let scraped = request(path, Some("a.example"), None);
            assert_eq!(status(&Access::default(), &scraped), Status::Ok, "{path}");
        }
    }

    #[test]
    fn with_a_token_it_is_the_token_that_counts() {
        let access = Access { token: Some("secret".into()), ..Access::default() };
        access.check().unwrap();
        for path in ["/metrics", "/loops", "/connections", "/connections/1/kill", "/other"] {
            for wrong in [None, Some(""), Some("secre"), Some("secret1"), Some("Secret")] {
                let asked = request(path, Some("127.0.0.1"), wrong);
                assert_eq!(status(&access, &asked), Status::Unauthorized, "{path} {wrong:?}");
            }
            let right = request(path, Some("any.example"), Some("secret"));
            assert_eq!(status(&access, &right), Status::Ok, "{path}");
        }
        for open in ["/", "/healthz"] {
            assert_eq!(status(&access, &request(open, None, None)), Status::Ok, "{open}");
        }
    }

    #[test]
    fn what_cannot_be_shown_or_called_is_refused_at_start() {
        for token in ["", "a b", "a\r\nb", "\u{e4}"] {
            let access = Access { token: Some(token.into()), ..Access::default() };
            assert!(access.check().is_err(), "{token:?}");
        }
        for name in ["", "a b", "a:1", "http://a"] {
            let access = Access { names: vec![name.into()], ..Access::default() };
            assert!(access.check().is_err(), "{name:?}");
        }
    }
}
