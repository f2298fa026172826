//! Compiles the messages without protoc, and writes the table that reflection answers from.

use protox::prost::Message as _;
use std::fmt::Write as _;
use std::path::PathBuf;

const FILES: [&str; 9] = [
    "proto/grpc_predict_v2.proto",
    "proto/model_config.proto",
    "proto/grpc/health/v1/health.proto",
    "proto/grpc/reflection/v1/reflection.proto",
    "proto/grpc/reflection/v1alpha/reflection.proto",
    "proto/google/rpc/status.proto",
    "proto/google/rpc/error_details.proto",
    "proto/google/longrunning/operations.proto",
    "proto/penstock/v1/operations.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?
        // No message imports it. Operations have their metadata in it, inside of an `Any`.
        .open_file("google/protobuf/struct.proto")?;
    let set = compiler.file_descriptor_set();

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut table = String::from("&[\n");
    for (index, file) in set.file.iter().enumerate() {
        let mut file = file.clone();
        // Remove the comments, which serve only readers of the source.
        file.source_code_info = None;
        let path = out.join(format!("{index}.bin"));
        std::fs::write(&path, file.encode_to_vec())?;
        let mut symbols = Vec::new();
        let mut services = Vec::new();
        let package = file.package();
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            let methods = service.method.iter();
            symbols.extend(methods.map(|method| format!("{name}.{}", method.name())));
            symbols.push(name.clone());
            services.push(name);
        }
        let enums = file.enum_type.iter();
        symbols.extend(enums.map(|kind| format!("{package}.{}", kind.name())));
        // Messages, and those within them.
        let mut open: Vec<_> = file
            .message_type
            .iter()
            .map(|message| (package.to_owned(), message))
            .collect();
        while let Some((within, message)) = open.pop() {
            let name = format!("{within}.{}", message.name());
            let enums = message.enum_type.iter();
            symbols.extend(enums.map(|kind| format!("{name}.{}", kind.name())));
            open.extend(message.nested_type.iter().map(|m| (name.clone(), m)));
            symbols.push(name);
        }
        writeln!(
            table,
            "File {{ name: {:?}, imports: &{:?}, services: &{services:?}, symbols: &{symbols:?}, descriptor: \
             include_bytes!({path:?}) }},",
            file.name(),
            file.dependency,
        )?;
    }
    table.push(']');
    std::fs::write(out.join("files.rs"), table)?;

    prost_build::Config::new()
        // Nothing a stranger names is kept in a hash table: WebAssembly may have no randomness for one.
        .btree_map(["."])
        .bytes([
            ".inference.ModelInferRequest.raw_input_contents",
            ".inference.ModelInferResponse.raw_output_contents",
            ".grpc.reflection",
        ])
        .compile_well_known_types()
        .include_file("messages.rs")
        .compile_fds(set)?;
    Ok(())
}
