//! `penstock usage`: gets the usage from a running server and prints it as a table or as JSON lines.
//!
//! It uses HTTP because the server has the store open, and because then only the server decides which rows the caller may
//! see.

use anyhow::{Context, bail};
use penstock_admin::client::{Ask, ask, columns};
use penstock_app::secrets;
use serde::Deserialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The environment variable with the caller's API key.
pub const API_KEY: &str = "PENSTOCK_API_KEY";
/// Pages that are read before giving up: a million rows.
const MAX_PAGES: usize = 1_000;

/// The query, and the form of the output.
#[derive(Clone, Debug)]
pub struct UsageOptions {
    /// The address of the server, `http://host:port`.
    pub server: String,
    /// The first day, `YYYY-MM-DD`.
    pub from: Option<String>,
    /// The last day, `YYYY-MM-DD`.
    pub to: Option<String>,
    /// Whether to print one JSON object per line.
    pub json: bool,
    /// The file with the API key, if [`API_KEY`] does not hold it.
    pub api_key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Page {
    usage: Vec<serde_json::Value>,
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
struct Row {
    date: String,
    tenant: String,
    api_key_id: Option<String>,
    model: String,
    requests: u64,
    items: u64,
    bytes: u64,
    compute_ms: f64,
}

/// Gets the usage and prints it.
pub fn run(options: &UsageOptions) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(print(options, &mut std::io::stdout().lock())),
        Err(e) => Err(e.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

async fn print(options: &UsageOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let api_key = match &options.api_key_file {
        Some(path) => Some(secrets::read(path).context("--api-key-file cannot be read")?),
        None => secrets::given(API_KEY, &secrets::environment)?,
    };
    let mut token: Option<String> = None;
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..MAX_PAGES {
        let page = page(options, api_key.as_deref(), token.as_deref()).await?;
        for row in page.usage {
            if options.json {
                writeln!(out, "{row}")?;
            } else {
                rows.push(
                    serde_json::from_value(row)
                        .context("the server's answer has an unexpected form")?,
                );
            }
        }
        token = page.next_page_token;
        if token.is_none() {
            if !options.json {
                table(&rows, out)?;
            }
            return Ok(());
        }
    }
    bail!("there are more than {MAX_PAGES} pages; ask for fewer days with --from and --to")
}

/// Prints rows in columns. Each is as wide as its widest entry.
fn table(rows: &[Row], out: &mut impl Write) -> anyhow::Result<()> {
    let head = [
        "DATE",
        "TENANT",
        "API KEY",
        "MODEL",
        "REQUESTS",
        "ITEMS",
        "BYTES",
        "COMPUTE MS",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        vec![
            row.date.clone(),
            row.tenant.clone(),
            row.api_key_id.clone().unwrap_or_else(|| "-".to_owned()),
            row.model.clone(),
            row.requests.to_string(),
            row.items.to_string(),
            row.bytes.to_string(),
            format!("{:.1}", row.compute_ms),
        ]
    }));
    columns(&lines, 4, out)
}

async fn page(
    options: &UsageOptions,
    api_key: Option<&str>,
    token: Option<&str>,
) -> anyhow::Result<Page> {
    let mut query = Vec::new();
    for (name, value) in [
        ("from", options.from.as_deref()),
        ("to", options.to.as_deref()),
        ("page_token", token),
    ] {
        if let Some(value) = value {
            // Dates and tokens have digits, dashes and a point. The server would refuse anything else.
            if !value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
            {
                bail!("--{name} {value:?} is not a date; write it as YYYY-MM-DD");
            }
            query.push(format!("{name}={value}"));
        }
    }
    let target = match query.is_empty() {
        true => "/v1/usage".to_owned(),
        false => format!("/v1/usage?{}", query.join("&")),
    };
    let body = ask(Ask {
        flag: "--server",
        server: &options.server,
        method: "GET",
        target: &target,
        bearer: api_key,
        body: None,
        start: "`penstock up`",
    })
    .await?;
    serde_json::from_slice(&body).context("the server's answer has an unexpected form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_printed_in_columns() {
        let row = |model: &str, requests| Row {
            date: "2026-11-21".into(),
            tenant: "anonymous".into(),
            api_key_id: None,
            model: model.into(),
            requests,
            items: 2,
            bytes: 3,
            compute_ms: 1.25,
        };
        let mut out = Vec::new();
        table(&[row("magika", 7), row("cls", 12_345)], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "DATE        TENANT     API KEY  MODEL   REQUESTS  ITEMS  BYTES  COMPUTE MS\n\
             2026-11-21  anonymous  -        magika         7      2      3         1.2\n\
             2026-11-21  anonymous  -        cls        12345      2      3         1.2\n"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_said() {
        let ask = |server: &str, from: Option<&str>| {
            let options = UsageOptions {
                server: server.into(),
                from: from.map(str::to_owned),
                to: None,
                json: false,
                api_key_file: None,
            };
            async move {
                page(&options, None, None)
                    .await
                    .err()
                    .expect("an error")
                    .to_string()
            }
        };
        assert!(ask("https://a", None).await.contains("http://"));
        assert!(
            ask("http://127.0.0.1:1", Some("a b"))
                .await
                .contains("YYYY-MM-DD")
        );
        assert!(
            ask("http://127.0.0.1:1", None)
                .await
                .contains("penstock up")
        );
    }
}
