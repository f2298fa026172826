//! One request to a running server, for commands that need one.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use penstock_core::json;
use std::io::Write;
use std::time::Duration;

/// Longest time of one exchange.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer that is read. A thousand rows of usage take some 300 KiB.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// One request, and the server for it.
pub struct Ask<'a> {
    /// The flag that names the server, for messages.
    pub flag: &'a str,
    /// The address of the server, `http://host:port`.
    pub server: &'a str,
    /// The HTTP method in upper case.
    pub method: &'a str,
    /// The path and the query of the URL.
    pub target: &'a str,
    /// The token that is sent as `Authorization: Bearer …`, if any.
    pub bearer: Option<&'a str>,
    /// The JSON of the body, if there is one.
    pub body: Option<&'a serde_json::Value>,
    /// The command to start if no server answers.
    pub start: &'a str,
}

/// Sends the request, and reads the whole answer.
///
/// # Errors
///
/// If no server answered, or the answer is an error: the server's message.
pub async fn ask(ask: Ask<'_>) -> anyhow::Result<Bytes> {
    let Ask { flag, server, .. } = ask;
    let uri: http::Uri = server
        .parse()
        .map_err(|e| anyhow!("{flag} {server} is not a URL: {e}"))?;
    if uri.scheme_str() != Some("http") {
        bail!("{flag} {server} must begin with http://; put a proxy in front for TLS");
    }
    let authority = uri
        .authority()
        .ok_or_else(|| anyhow!("{flag} {server} names no host"))?;
    let mut request = http::Request::builder()
        .method(ask.method)
        .uri(ask.target)
        .header("host", authority.as_str())
        .header("accept", "application/json");
    if let Some(bearer) = ask.bearer {
        let value = http::HeaderValue::from_str(&format!("Bearer {bearer}"));
        // The error would repeat the secret.
        let mut value = value.map_err(|_| {
            anyhow!("the credential contains characters that a header cannot carry")
        })?;
        value.set_sensitive(true);
        request = request.header("authorization", value);
    }
    let body = ask.body.map_or(Vec::new(), json::to_bytes);
    if ask.body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    let (host, port) = (authority.host(), authority.port_u16().unwrap_or(80));
    let exchange = async {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = tokio::net::TcpStream::connect((host, port))
            .await
            .with_context(|| {
                format!(
                    "no server answers at {authority}; is {} running there?",
                    ask.start
                )
            })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|e| anyhow!("the answer broke off: {e}"))?
            .to_bytes();
        Ok::<_, anyhow::Error>((status, body))
    };
    let (status, body) = tokio::time::timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| anyhow!("{authority} did not answer within {} s", TIMEOUT.as_secs()))??;
    match status.is_success() {
        true => Ok(body),
        false => bail!("{authority} answered {status}: {}", said(status, &body)),
    }
}

/// Returns the message of an error, with its details.
fn said(status: StatusCode, body: &[u8]) -> String {
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(body) else {
        return format!(
            "no message with it ({})",
            status.canonical_reason().unwrap_or("")
        );
    };
    let error = &said["error"];
    let mut text = error["message"].as_str().unwrap_or("no message").to_owned();
    for detail in error["details"].as_array().into_iter().flatten() {
        if let (Some(pointer), Some(message)) =
            (detail["pointer"].as_str(), detail["message"].as_str())
        {
            let expected = detail["expected"].as_str().unwrap_or("");
            text.push_str(&format!("\n  {pointer}: {message}; expected: {expected}"));
        }
    }
    text
}

/// Prints lines in columns. Each is as wide as its widest entry. Columns from `right` on are right-aligned.
pub fn columns(lines: &[Vec<String>], right: usize, out: &mut impl Write) -> anyhow::Result<()> {
    let count = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        })
        .collect();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column < right {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
