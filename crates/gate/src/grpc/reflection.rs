//! Implements gRPC's server reflection. Its versions v1 and v1alpha have the same messages under different names.

use pb::server_reflection_request::MessageRequest;
use pb::server_reflection_response::MessageResponse;
use penstock_core::GrpcStatus;
use penstock_proto::FILES;
use penstock_proto::grpc::reflection::v1 as pb;
use prost::Message;
use prost::bytes::Bytes;

/// Answers one reflection request with an encoded response.
pub fn answer(request: pb::ServerReflectionRequest) -> Vec<u8> {
    let unknown = |what: &str| {
        MessageResponse::ErrorResponse(pb::ErrorResponse {
            error_code: GrpcStatus::NotFound.number().into(),
            error_message: format!("this server has no such {what}"),
        })
    };
    let said = match &request.message_request {
        Some(MessageRequest::ListServices(_)) => {
            let mut names: Vec<&str> = FILES.iter().flat_map(|f| f.services).copied().collect();
            names.sort_unstable();
            let services = names.into_iter().map(|name| pb::ServiceResponse {
                name: name.to_owned(),
            });
            MessageResponse::ListServicesResponse(pb::ListServiceResponse {
                service: services.collect(),
            })
        }
        Some(MessageRequest::FileByFilename(name)) => {
            match FILES.iter().position(|file| file.name == name) {
                Some(index) => descriptors(index),
                None => unknown("file"),
            }
        }
        Some(MessageRequest::FileContainingSymbol(symbol)) => {
            // Some clients write a leading dot, as for an absolute name.
            let symbol = symbol.strip_prefix('.').unwrap_or(symbol);
            let has = |file: &penstock_proto::File| file.symbols.contains(&symbol);
            match FILES.iter().position(has) {
                Some(index) => descriptors(index),
                None => unknown("symbol"),
            }
        }
        Some(MessageRequest::FileContainingExtension(_)) => unknown("extension"),
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
            if FILES
                .iter()
                .any(|file| file.symbols.contains(&name.as_str()))
            {
                MessageResponse::AllExtensionNumbersResponse(pb::ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: Vec::new(),
                })
            } else {
                unknown("type")
            }
        }
        None => MessageResponse::ErrorResponse(pb::ErrorResponse {
            error_code: GrpcStatus::InvalidArgument.number().into(),
            error_message: "the request is empty; set one of its fields".to_owned(),
        }),
    };
    pb::ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(said),
    }
    .encode_to_vec()
}

/// Returns a file and its transitive imports, each once. The requested file comes first.
fn descriptors(index: usize) -> MessageResponse {
    fn add(index: usize, added: &mut Vec<usize>) {
        if added.contains(&index) {
            return;
        }
        if let Some(file) = FILES.get(index) {
            for import in file.imports {
                if let Some(import) = FILES.iter().position(|f| f.name == *import) {
                    add(import, added);
                }
            }
            added.push(index);
        }
    }
    let mut added = Vec::new();
    add(index, &mut added);
    // Clients treat the first file as the requested one.
    let files = added.iter().rev().filter_map(|index| FILES.get(*index));
    MessageResponse::FileDescriptorResponse(pb::FileDescriptorResponse {
        file_descriptor_proto: files.map(|f| Bytes::from_static(f.descriptor)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: MessageRequest) -> MessageResponse {
        let answered = answer(pb::ServerReflectionRequest {
            host: "h".to_owned(),
            message_request: Some(request),
        });
        let read = pb::ServerReflectionResponse::decode(answered.as_slice()).unwrap();
        assert_eq!(read.valid_host, "h");
        assert!(read.original_request.is_some());
        read.message_response.unwrap()
    }

    fn files(request: MessageRequest) -> usize {
        match ask(request) {
            MessageResponse::FileDescriptorResponse(found) => found.file_descriptor_proto.len(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_service_is_listed() {
        let MessageResponse::ListServicesResponse(list) =
            ask(MessageRequest::ListServices(String::new()))
        else {
            panic!("no list");
        };
        let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "google.longrunning.Operations",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                "inference.GRPCInferenceService",
                "penstock.v1.Operations",
            ]
        );
    }

    #[test]
    fn a_symbol_comes_with_its_file_and_what_that_imports() {
        let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
        assert_eq!(files(symbol("inference.GRPCInferenceService")), 2);
        assert_eq!(
            files(symbol("inference.GRPCInferenceService.ModelInfer")),
            2
        );
        assert_eq!(
            files(symbol(".inference.ModelInferRequest.InferInputTensor")),
            2
        );
        assert_eq!(files(symbol("inference.ModelInput.Format")), 1);
        assert_eq!(files(symbol("google.rpc.Status")), 2);
        // With `Any`, `Duration`, `Empty` and `Status`.
        assert_eq!(files(symbol("google.longrunning.Operations")), 5);
        assert_eq!(files(symbol("penstock.v1.Operations.ModelInferAsync")), 8);
        // The type of metadata, which no message imports.
        assert_eq!(files(symbol("google.protobuf.Struct")), 1);
        let named = MessageRequest::FileByFilename("model_config.proto".to_owned());
        assert_eq!(files(named), 1);
    }

    #[test]
    fn an_unknown_name_is_an_error_and_does_not_end_the_stream() {
        for request in [
            MessageRequest::FileContainingSymbol("nothing".to_owned()),
            MessageRequest::FileByFilename("../etc/passwd".to_owned()),
            MessageRequest::AllExtensionNumbersOfType("nothing".to_owned()),
            MessageRequest::FileContainingExtension(pb::ExtensionRequest::default()),
        ] {
            match ask(request) {
                MessageResponse::ErrorResponse(error) => assert_eq!(error.error_code, 5),
                other => panic!("{other:?}"),
            }
        }
    }
}
