//! The protobuf messages of the Open Inference Protocol's gRPC service with Triton's extensions, of long-running operations, of
//! health checking, of reflection, and of the details of errors. Their definitions are in `proto/`; nothing here decides anything.
//!
//! `ModelInferRequest` is written with these types and read without them: a message of it costs, as a structure, many
//! times as many bytes as its encoding, so the gate reads it field by field (decisions/0017).

#![forbid(unsafe_code)]

#[allow(missing_docs, rustdoc::all, clippy::all)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

pub use messages::{google, grpc, inference};

/// A file of definitions, as reflection tells of it.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// The name by which other files import it.
    pub name: &'static str,
    /// The names of the files that it imports.
    pub imports: &'static [&'static str],
    /// The services it defines, with their package.
    pub services: &'static [&'static str],
    /// All it defines, with their package: services, methods, messages, enumerations.
    pub symbols: &'static [&'static str],
    /// The encoded `google.protobuf.FileDescriptorProto` of the file.
    pub descriptor: &'static [u8],
}

/// Every file of definitions, those it imports included.
pub static FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_import_is_there_and_every_service_is_a_symbol() {
        assert!(FILES.len() >= 9);
        for file in FILES {
            for import in file.imports {
                assert!(FILES.iter().any(|f| f.name == *import), "{import}");
            }
            for service in file.services {
                assert!(file.symbols.contains(service));
            }
            assert!(!file.descriptor.is_empty());
        }
        let services: Vec<_> = FILES.iter().flat_map(|f| f.services).collect();
        assert_eq!(services.len(), 6, "{services:?}");
    }
}
