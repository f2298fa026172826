//! Finds the method of a path and reads one message of it.

use super::decode;
use super::encode::Form;
use super::operations::{self, ListRequest};
use super::wire::Broken;
use crate::record::Request;
use crate::route::{OperationTarget, Target, replaces_model, shorten};
use penstock_core::{Code, Problem, grpc};
use penstock_proto::google::longrunning;
use penstock_proto::grpc::health::v1 as health;
use penstock_proto::grpc::reflection::v1 as reflection;
use penstock_proto::{FILES, inference as pb};
use penstock_tensor::Rejection;
use prost::Message;

/// The largest message in bytes of a method other than inference. Such a message holds little but names, and its
/// decoded structure is many times its size.
pub const MAX_SMALL_MESSAGE_BYTES: usize = 64 << 10;

/// A method of one of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reports the liveness of the process.
    ServerLive,
    /// Reports the readiness of the server and its required models.
    ServerReady,
    /// Reports the readiness of one model.
    ModelReady,
    /// The server's name, version and extensions.
    ServerMetadata,
    /// A model's inputs and outputs.
    ModelMetadata,
    /// Runs a model for one call.
    ModelInfer,
    /// Runs a model for one message of a stream.
    ModelStreamInfer,
    /// The configuration of a model in Triton's form.
    ModelConfig,
    /// The run counts and times of one model, or of all.
    ModelStatistics,
    /// Lists the models and their states.
    RepositoryIndex,
    /// Loads or reloads a model.
    RepositoryModelLoad,
    /// Unloads a model; its calls then fail until it is loaded.
    RepositoryModelUnload,
    /// The health check of gRPC, answered once.
    HealthCheck,
    /// gRPC's health check as a stream of changes.
    HealthWatch,
    /// Server reflection: the definitions of the services.
    Reflection,
    /// Makes a call an operation.
    ModelInferAsync,
    /// The present state of an operation.
    GetOperation,
    /// The operations of the caller's tenant.
    ListOperations,
    /// Asks for the end of an operation.
    CancelOperation,
    /// Deletes an operation that has ended.
    DeleteOperation,
    /// The state of an operation after its end, or after a wait.
    WaitOperation,
}

impl Method {
    /// Returns the method that a path names.
    pub fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        Some(match (service, method) {
            ("inference.GRPCInferenceService", method) => match method {
                "ServerLive" => Self::ServerLive,
                "ServerReady" => Self::ServerReady,
                "ModelReady" => Self::ModelReady,
                "ServerMetadata" => Self::ServerMetadata,
                "ModelMetadata" => Self::ModelMetadata,
                "ModelInfer" => Self::ModelInfer,
                "ModelStreamInfer" => Self::ModelStreamInfer,
                "ModelConfig" => Self::ModelConfig,
                "ModelStatistics" => Self::ModelStatistics,
                "RepositoryIndex" => Self::RepositoryIndex,
                "RepositoryModelLoad" => Self::RepositoryModelLoad,
                "RepositoryModelUnload" => Self::RepositoryModelUnload,
                _ => return None,
            },
            ("grpc.health.v1.Health", "Check") => Self::HealthCheck,
            ("grpc.health.v1.Health", "Watch") => Self::HealthWatch,
            (
                "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
                "ServerReflectionInfo",
            ) => Self::Reflection,
            ("penstock.v1.Operations", "ModelInferAsync") => Self::ModelInferAsync,
            ("google.longrunning.Operations", method) => match method {
                "GetOperation" => Self::GetOperation,
                "ListOperations" => Self::ListOperations,
                "CancelOperation" => Self::CancelOperation,
                "DeleteOperation" => Self::DeleteOperation,
                "WaitOperation" => Self::WaitOperation,
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Returns the message type of the answer to an inference request.
    pub fn form(self) -> Form {
        match self {
            Self::ModelStreamInfer => Form::Stream,
            Self::ModelInferAsync => Form::Operation,
            _ => Form::Unary,
        }
    }
}

/// The content of one request message.
#[derive(Clone, Debug, PartialEq)]
pub enum RpcRequest {
    /// Asks for the liveness of the process.
    ServerLive,
    /// Asks for the readiness of the server and its required models.
    ServerReady,
    /// Asks for the readiness of one model.
    ModelReady(Target),
    /// Asks for the server's name, version and extensions.
    ServerMetadata,
    /// Asks for a model's inputs and outputs.
    ModelMetadata(Target),
    /// Runs a model for one message. The message is read again after the contract is opened.
    Infer {
        /// The model and an optional pinned version.
        target: Target,
        /// The caller's id of the request.
        id: String,
        /// The message type of the answer.
        form: Form,
    },
    /// Asks for a model's configuration.
    ModelConfig(Target),
    /// Asks for the statistics of one model, or of all.
    ModelStatistics(Option<Target>),
    /// Asks for the list of models.
    RepositoryIndex {
        /// Lists only the models that are ready.
        ready: bool,
    },
    /// Loads or reloads the model of this name.
    ModelLoad(String),
    /// Unloads the model of this name.
    ModelUnload(String),
    /// Asks for the health of the server or of a known service: whether every required model could run now.
    Health,
    /// Asks for the health of an unknown service.
    HealthUnknown {
        /// Whether the method is `Watch`, which may start before the service exists.
        watching: bool,
    },
    /// Asks a question about the definitions of the services.
    Reflection(reflection::ServerReflectionRequest),
    /// Asks for the state of an operation.
    GetOperation(OperationTarget),
    /// Asks for a page of operations.
    ListOperations(ListRequest),
    /// Asks for the end of an operation.
    CancelOperation(OperationTarget),
    /// Deletes an operation.
    DeleteOperation(OperationTarget),
    /// Waits for the end of an operation.
    WaitOperation {
        /// The operation that the caller names.
        target: OperationTarget,
        /// The longest time to wait, in milliseconds; `None` for as long as a call may wait.
        timeout_ms: Option<u64>,
    },
}

/// Returns whether a request is a call over gRPC with a supported codec.
pub fn is_call(request: &Request) -> bool {
    let codec = request.header("content-type").and_then(grpc::codec);
    codec == Some(grpc::Codec::Protobuf)
}

/// Returns the method that a request calls. Errors if the path names none.
pub fn method(path: &str) -> Result<Method, Problem> {
    Method::of(path).ok_or_else(|| {
        Problem::new(
            Code::UnknownPath,
            format!(
                "there is no method `{}`; server reflection lists the services",
                shorten(path)
            ),
        )
    })
}

/// Reads a request message of a method.
pub fn asked(method: Method, message: &[u8]) -> Result<RpcRequest, Problem> {
    Ok(match method {
        Method::ServerLive => {
            small::<pb::ServerLiveRequest>(message)?;
            RpcRequest::ServerLive
        }
        Method::ServerReady => {
            small::<pb::ServerReadyRequest>(message)?;
            RpcRequest::ServerReady
        }
        Method::ModelReady => {
            let said: pb::ModelReadyRequest = small(message)?;
            RpcRequest::ModelReady(target(said.name, said.version))
        }
        Method::ServerMetadata => {
            small::<pb::ServerMetadataRequest>(message)?;
            RpcRequest::ServerMetadata
        }
        Method::ModelMetadata => {
            let said: pb::ModelMetadataRequest = small(message)?;
            RpcRequest::ModelMetadata(target(said.name, said.version))
        }
        Method::ModelInfer | Method::ModelStreamInfer | Method::ModelInferAsync => {
            let said = decode::heading(message).map_err(rejected)?;
            RpcRequest::Infer {
                target: said.target,
                id: said.id,
                form: method.form(),
            }
        }
        Method::ModelConfig => {
            let said: pb::ModelConfigRequest = small(message)?;
            RpcRequest::ModelConfig(target(said.name, said.version))
        }
        Method::ModelStatistics => {
            let said: pb::ModelStatisticsRequest = small(message)?;
            let one = !said.name.is_empty();
            RpcRequest::ModelStatistics(one.then(|| target(said.name, said.version)))
        }
        Method::RepositoryIndex => {
            let said: pb::RepositoryIndexRequest = small(message)?;
            one_repository(&said.repository_name)?;
            RpcRequest::RepositoryIndex { ready: said.ready }
        }
        Method::RepositoryModelLoad => {
            let said: pb::RepositoryModelLoadRequest = small(message)?;
            one_repository(&said.repository_name)?;
            keeps_files(said.parameters.keys())?;
            RpcRequest::ModelLoad(said.model_name)
        }
        Method::RepositoryModelUnload => {
            let said: pb::RepositoryModelUnloadRequest = small(message)?;
            one_repository(&said.repository_name)?;
            // No model depends on another, so the one known parameter has no effect.
            RpcRequest::ModelUnload(said.model_name)
        }
        Method::HealthCheck | Method::HealthWatch => {
            let said: health::HealthCheckRequest = small(message)?;
            let service = said.service.as_str();
            let known = FILES.iter().any(|file| file.services.contains(&service));
            if service.is_empty() || known {
                RpcRequest::Health
            } else {
                RpcRequest::HealthUnknown {
                    watching: method == Method::HealthWatch,
                }
            }
        }
        Method::Reflection => RpcRequest::Reflection(small(message)?),
        Method::GetOperation => {
            let said: longrunning::GetOperationRequest = small(message)?;
            RpcRequest::GetOperation(operations::target(&said.name)?)
        }
        Method::ListOperations => RpcRequest::ListOperations(operations::list(small(message)?)?),
        Method::CancelOperation => {
            let said: longrunning::CancelOperationRequest = small(message)?;
            RpcRequest::CancelOperation(operations::target(&said.name)?)
        }
        Method::DeleteOperation => {
            let said: longrunning::DeleteOperationRequest = small(message)?;
            RpcRequest::DeleteOperation(operations::target(&said.name)?)
        }
        Method::WaitOperation => {
            let said: longrunning::WaitOperationRequest = small(message)?;
            RpcRequest::WaitOperation {
                target: operations::target(&said.name)?,
                timeout_ms: said.timeout.map(operations::timeout_ms).transpose()?,
            }
        }
    })
}

/// Decodes a message of a method other than inference.
fn small<M: Message + Default>(message: &[u8]) -> Result<M, Problem> {
    if message.len() > MAX_SMALL_MESSAGE_BYTES {
        return Err(Problem::new(
            Code::BodyTooLarge,
            format!(
                "the message has {} bytes; this method takes at most {MAX_SMALL_MESSAGE_BYTES}",
                message.len()
            ),
        ));
    }
    // Scan the fields first, because prost does not report the position of an error.
    let mut fields = super::wire::Piece::whole(message).fields();
    while fields
        .field()
        .map_err(|b| rejected(decode::malformed(b)))?
        .is_some()
    {}
    M::decode(message).map_err(|_| {
        rejected(decode::malformed(Broken {
            at: 0,
            what: "its fields are not those of the method's message",
        }))
    })
}

fn target(model: String, version: String) -> Target {
    Target {
        model,
        version: (!version.is_empty()).then_some(version),
    }
}

fn one_repository(name: &str) -> Result<(), Problem> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnknownResource,
        format!(
            "there is no repository `{}`; omit the name, because the only repository has none",
            shorten(name)
        ),
    ))
}

/// Checks that a load does not bring its own contract or files. Other parameters have no effect and are ignored.
fn keeps_files<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), Problem> {
    let Some(name) = names.find(|name| replaces_model(name)) else {
        return Ok(());
    };
    Err(Problem::new(
        Code::NotSupported,
        format!(
            "the parameter `{}` is not supported: a model's files and contract are the operator's; send no parameters",
            shorten(name)
        ),
    ))
}

/// Converts a rejection to a problem.
pub fn rejected(rejection: Rejection) -> Problem {
    Problem::new(rejection.code, rejection.message)
        .with_violations(rejection.violations, rejection.omitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_every_service_is_known_and_no_other() {
        let mut methods = 0;
        for file in FILES {
            for service in file.services {
                let prefix = format!("{service}.");
                for symbol in file.symbols {
                    if let Some(method) = symbol.strip_prefix(&prefix) {
                        let path = format!("/{service}/{method}");
                        assert!(Method::of(&path).is_some(), "{path}");
                        methods += 1;
                    }
                }
            }
        }
        assert_eq!(methods, 22);
        for path in [
            "",
            "/",
            "/inference.GRPCInferenceService",
            "/inference.GRPCInferenceService/",
            "/inference.GRPCInferenceService/modelInfer",
            "/inference.GRPCInferenceService/ModelInfer/",
            "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
            "//inference.GRPCInferenceService/ModelInfer",
            "/google.longrunning.Operations/RunOperation",
            "/google.longrunning.Operations/ModelInferAsync",
            "/penstock.v1.Operations/GetOperation",
            "/x/ModelInfer",
        ] {
            assert_eq!(method(path).unwrap_err().code, Code::UnknownPath, "{path}");
        }
    }

    #[test]
    fn messages_ask_for_what_their_method_is_about() {
        let said = pb::ModelReadyRequest {
            name: "m".into(),
            version: String::new(),
        };
        let at = |version: Option<&str>| Target {
            model: "m".into(),
            version: version.map(str::to_owned),
        };
        assert_eq!(
            asked(Method::ModelReady, &said.encode_to_vec()),
            Ok(RpcRequest::ModelReady(at(None)))
        );
        let said = pb::ModelInferRequest {
            model_name: "m".into(),
            model_version: "2".into(),
            id: "7".into(),
            ..Default::default()
        };
        assert_eq!(
            asked(Method::ModelStreamInfer, &said.encode_to_vec()),
            Ok(RpcRequest::Infer {
                target: at(Some("2")),
                id: "7".into(),
                form: Form::Stream
            })
        );
        assert_eq!(
            asked(Method::ModelStatistics, b""),
            Ok(RpcRequest::ModelStatistics(None))
        );
        let health = |service: &str| health::HealthCheckRequest {
            service: service.into(),
        };
        for (service, known) in [
            ("", true),
            ("inference.GRPCInferenceService", true),
            ("grpc.health.v1.Health", true),
            ("other", false),
        ] {
            let found = asked(Method::HealthWatch, &health(service).encode_to_vec()).unwrap();
            let expected = if known {
                RpcRequest::Health
            } else {
                RpcRequest::HealthUnknown { watching: true }
            };
            assert_eq!(found, expected, "{service}");
        }
    }

    #[test]
    fn a_broken_or_a_huge_message_and_what_cannot_be_asked_is_refused() {
        let code = |method, message: &[u8]| asked(method, message).unwrap_err().code;
        assert_eq!(code(Method::ServerLive, &[0x0f]), Code::MalformedProtobuf);
        assert_eq!(
            code(Method::ModelReady, &[0x08, 1]),
            Code::MalformedProtobuf
        );
        assert_eq!(
            code(Method::ModelReady, &[0x0a, 1, 0xff]),
            Code::MalformedProtobuf
        );
        assert_eq!(
            code(Method::ServerLive, &vec![0; MAX_SMALL_MESSAGE_BYTES + 1]),
            Code::BodyTooLarge
        );
        let mut load = pb::RepositoryModelLoadRequest {
            repository_name: "r".into(),
            model_name: "m".into(),
            ..Default::default()
        };
        let method = Method::RepositoryModelLoad;
        assert_eq!(code(method, &load.encode_to_vec()), Code::UnknownResource);
        load.repository_name.clear();
        assert_eq!(
            asked(method, &load.encode_to_vec()),
            Ok(RpcRequest::ModelLoad("m".into()))
        );
        load.parameters.insert("config".into(), Default::default());
        assert_eq!(code(method, &load.encode_to_vec()), Code::NotSupported);
        load.parameters.clear();
        load.parameters.insert("other".into(), Default::default());
        assert_eq!(
            asked(method, &load.encode_to_vec()),
            Ok(RpcRequest::ModelLoad("m".into()))
        );
        let unload = pb::RepositoryModelUnloadRequest {
            model_name: "m".into(),
            parameters: [("unload_dependents".to_owned(), Default::default())].into(),
            ..Default::default()
        };
        assert_eq!(
            asked(Method::RepositoryModelUnload, &unload.encode_to_vec()),
            Ok(RpcRequest::ModelUnload("m".into()))
        );
    }
}
