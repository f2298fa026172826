//! Measures one model with every protocol: `cls` with 27,648 floats as JSON, as binary tensors over HTTP/1.1, and over
//! gRPC, each beside ONNX Runtime called directly. Rows take turns, so that a slow minute affects all of them. Only
//! ratios within a round are compared. Every caller has its own connection.

use crate::load::{self, Measured, WARM_UP};
use crate::{CLS_NUMBERS, Cli, ROUNDS, Random, cls_body, direct, median, row, server};
use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use penstock_adapters::{Adapter, Builtin, Item, Part, Step};
use penstock_proto::inference::model_infer_request::InferInputTensor;
use penstock_proto::inference::{ModelInferRequest, ModelInferResponse};
use prost::Message;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Callers at once.
const CALLERS: [usize; 2] = [1, 8];
/// Batches for the direct call. With several callers its best one counts.
const BATCHES: [usize; 4] = [1, 2, 4, 8];
const SHAPE: [u32; 4] = [1, 3, 48, 192];

/// The form of a call.
#[derive(Clone)]
struct Protocol {
    name: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    grpc: bool,
}

fn numbers() -> Vec<f32> {
    let mut random = Random(11);
    (0..CLS_NUMBERS).map(|_| random.unit()).collect()
}

fn raw() -> Bytes {
    numbers().iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn protocols() -> [Protocol; 4] {
    let json_type = || vec![("content-type", "application/json".to_owned())];
    let flat = json!({
        "inputs": [{ "name": "x", "datatype": "FP32", "shape": SHAPE, "data": numbers() }],
    });
    let raw = raw();
    let head = json!({
        "inputs": [{
            "name": "x", "datatype": "FP32", "shape": SHAPE,
            "parameters": { "binary_data_size": raw.len() },
        }],
        "parameters": { "binary_data_output": true },
    })
    .to_string();
    let message = ModelInferRequest {
        model_name: "cls".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: SHAPE.map(i64::from).to_vec(),
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![raw.to_vec().into()],
        ..ModelInferRequest::default()
    };
    [
        Protocol {
            name: "JSON, :predict",
            path: "/v1/models/cls:predict",
            headers: json_type(),
            body: cls_body().into(),
            grpc: false,
        },
        Protocol {
            name: "JSON, /infer",
            path: "/v2/models/cls/infer",
            headers: json_type(),
            body: flat.to_string().into(),
            grpc: false,
        },
        Protocol {
            name: "binary, /infer",
            path: "/v2/models/cls/infer",
            headers: vec![
                ("content-type", "application/octet-stream".to_owned()),
                ("inference-header-content-length", head.len().to_string()),
            ],
            body: [head.as_bytes(), &raw].concat().into(),
            grpc: false,
        },
        Protocol {
            name: "gRPC, ModelInfer",
            path: "/inference.GRPCInferenceService/ModelInfer",
            headers: vec![
                ("content-type", "application/grpc".to_owned()),
                ("te", "trailers".to_owned()),
            ],
            body: framed(&message),
            grpc: true,
        },
    ]
}

/// A message after its five bytes: not compressed, and its length.
fn framed(message: &ModelInferRequest) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.encoded_len() as u32);
    body.put_slice(&message.encode_to_vec());
    body.freeze()
}

/// A sentence, and its tokens with the first and last special ones.
const SENTENCE: &str = "The quick brown fox jumps over the lazy dog near the bank of the river.";
const SENTENCE_TOKENS: usize = 18;

/// Measures embeddings of one sentence per call, beside the tokenizer alone and the model alone on as many tokens.
async fn embeddings(cli: &Cli, address: SocketAddr, span: Duration) -> anyhow::Result<()> {
    let config = std::fs::read(cli.models.join("minilm/sentence.json"))?;
    let adapter = Builtin::open("sentence", &config).map_err(anyhow::Error::msg)?;
    let item = || Item {
        parts: vec![Part::Text(SENTENCE)],
    };
    let counted = match adapter.prepare(&[item()]) {
        Ok(Step::Tensors(tensors)) => tensors[0].shape.clone(),
        other => bail!("the sentence came out as {other:?}"),
    };
    ensure!(
        counted == [1, SENTENCE_TOKENS as u64],
        "the sentence has {counted:?} tokens"
    );
    let (begun, mut tokenized) = (Instant::now(), 0u64);
    while begun.elapsed() < Duration::from_secs(1) {
        ensure!(adapter.prepare(&[item()]).is_ok());
        tokenized += 1;
    }
    println!(
        "\nembeddings of one sentence of {SENTENCE_TOKENS} tokens\n    {:<48} {:>9.0} calls/s",
        "tokenizer alone, natively",
        tokenized as f64 / begun.elapsed().as_secs_f64()
    );
    let graph = cli.models.join("minilm/1/model.onnx");
    let body = json!({ "model": "minilm", "input": SENTENCE, "encoding_format": "base64" });
    let protocol = Protocol {
        name: "/v1/embeddings",
        path: "/v1/embeddings",
        headers: vec![("content-type", "application/json".to_owned())],
        body: body.to_string().into(),
        grpc: false,
    };
    for callers in CALLERS {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let inputs = |batch: usize| {
                let of = |name, value: i64| {
                    direct::Input::integers(name, &[batch, SENTENCE_TOKENS], move |_| value)
                };
                vec![
                    of("input_ids", 2_000),
                    of("attention_mask", 1),
                    of("token_type_ids", 0),
                ]
            };
            let floor = floor(cli, &graph, &inputs, callers, span)?;
            println!("{callers} callers: model alone {floor:>9.0} calls/s");
            let measured = run(&protocol, address, callers, span).await?;
            row(protocol.name, &measured, None);
            ratios.push(measured.rps / floor);
        }
        println!(
            "    {callers} callers, of the model alone: {}",
            median(ratios)
        );
    }
    Ok(())
}

/// Prints the table.
pub async fn measure(cli: &Cli) -> anyhow::Result<()> {
    let span = Duration::from_secs(cli.seconds);
    let penstock =
        server::Penstock::start(cli, "direct", "[idempotency]\nenabled = false\n").await?;
    let graph = cli.models.join("cls/1/model.onnx");
    let protocols = protocols();
    println!(
        "cls, {CLS_NUMBERS} numbers, {} s a row, {ROUNDS} rounds",
        cli.seconds
    );
    for protocol in &protocols {
        println!("    {}: body {} bytes", protocol.name, protocol.body.len());
    }
    for callers in CALLERS {
        println!("\n{callers} callers");
        let mut ratios = vec![Vec::new(); protocols.len()];
        for _ in 0..ROUNDS {
            let inputs = |batch: usize| {
                let [_, channels, height, width] = SHAPE.map(|length| length as usize);
                vec![direct::Input::floats(
                    "x",
                    &[batch, channels, height, width],
                )]
            };
            let floor = floor(cli, &graph, &inputs, callers, span)?;
            println!(
                "{:<52} {floor:>9.0} calls/s",
                "ONNX Runtime called directly"
            );
            for (protocol, ratios) in protocols.iter().zip(&mut ratios) {
                let measured = run(protocol, penstock.address, callers, span)
                    .await
                    .with_context(|| protocol.name)?;
                row(protocol.name, &measured, None);
                ratios.push(measured.rps / floor);
            }
        }
        for (protocol, mut ratios) in protocols.iter().zip(ratios) {
            ratios.sort_by(f64::total_cmp);
            println!(
                "    {}: {:.2} of the direct call (median of {ROUNDS} rounds, {:.2} to {:.2})",
                protocol.name,
                ratios[ROUNDS / 2],
                ratios[0],
                ratios[ROUNDS - 1]
            );
        }
    }
    embeddings(cli, penstock.address, span).await
}

/// Calls per second of ONNX Runtime on prepared tensors: one after the other for one caller, and the best of its
/// batches and threads for several.
fn floor(
    cli: &Cli,
    graph: &std::path::Path,
    inputs: &dyn Fn(usize) -> Vec<direct::Input>,
    callers: usize,
    span: Duration,
) -> anyhow::Result<f64> {
    let rate = |batch: usize, sessions, threads, span| {
        let library = &cli.onnxruntime;
        direct::batches(library, graph, inputs, batch, sessions, threads, span)
            .map(|measured| measured.rps * batch as f64)
    };
    if callers == 1 {
        return rate(1, 1, 1, span);
    }
    let cores = std::thread::available_parallelism()?.get();
    let mut best = 0.0;
    for (sessions, threads) in [(1, cores), (cores, 1)] {
        for batch in BATCHES {
            let measured = rate(batch, sessions, threads, span / BATCHES.len() as u32)?;
            best = f64::max(best, measured);
        }
    }
    Ok(best)
}

async fn run(
    protocol: &Protocol,
    address: SocketAddr,
    callers: usize,
    span: Duration,
) -> anyhow::Result<Measured> {
    let start = Instant::now() + WARM_UP;
    let tasks: Vec<_> = (0..callers)
        .map(|_| tokio::spawn(caller(protocol.clone(), address, start, start + span)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    Ok(Measured::of(latencies, span))
}

type Body = Full<Bytes>;

/// A connection of one kind or the other.
enum Sender {
    One(hyper::client::conn::http1::SendRequest<Body>),
    Two(hyper::client::conn::http2::SendRequest<Body>),
}

impl Sender {
    async fn open(address: SocketAddr, grpc: bool) -> anyhow::Result<Self> {
        if !grpc {
            return Ok(Self::One(load::connect(address).await?));
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::Two(sender))
    }

    async fn send(
        &mut self,
        request: hyper::Request<Body>,
    ) -> hyper::Result<hyper::Response<hyper::body::Incoming>> {
        match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }
    }
}

async fn caller(
    protocol: Protocol,
    address: SocketAddr,
    start: Instant,
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut sender = Sender::open(address, protocol.grpc).await?;
    // HTTP/2 takes the authority from the target, HTTP/1.1 from `Host`.
    let target = match protocol.grpc {
        true => format!("http://{address}{}", protocol.path),
        false => protocol.path.to_owned(),
    };
    let mut latencies = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(latencies);
        }
        let mut request = hyper::Request::post(&target);
        if !protocol.grpc {
            request = request.header("host", "localhost");
        }
        for (name, value) in &protocol.headers {
            request = request.header(*name, value);
        }
        let response = sender
            .send(request.body(Full::new(protocol.body.clone()))?)
            .await?;
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let status = collected
            .trailers()
            .or(Some(&head.headers))
            .and_then(|trailers| trailers.get("grpc-status"))
            .cloned();
        let body = collected.to_bytes();
        ensure!(
            head.status == 200,
            "{}: {}",
            head.status,
            String::from_utf8_lossy(&body)
        );
        if protocol.grpc {
            answered(status.as_ref().map(|status| status.as_bytes()), &body)?;
        }
        if sent >= start {
            latencies.push(sent.elapsed());
        }
    }
}

/// Checks that a call over gRPC succeeded and returned outputs.
fn answered(status: Option<&[u8]>, body: &[u8]) -> anyhow::Result<()> {
    if status != Some(b"0") {
        bail!("grpc-status {:?}", status.map(String::from_utf8_lossy));
    }
    let (_, message) = body
        .split_at_checked(5)
        .context("an answer without a message")?;
    let answer = ModelInferResponse::decode(message)?;
    ensure!(!answer.outputs.is_empty(), "an answer without outputs");
    Ok(())
}
