//! The `OpenAPI` document of the JSON API, from the descriptors and their comments.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};
use serde_json::{Map, Value, json};

/// A duration in the JSON mapping of protobuf, such as `1.5s`.
const DURATION: &str = r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$";
/// A 64-bit integer in the JSON mapping.
const INTEGER: &str = "^-?[0-9]{1,19}$";

/// The document of the services in `package`.
pub(super) fn document(pool: &DescriptorPool, package: &str) -> Value {
    let mut schemas = Schemas::new(pool);
    let mut paths = Map::new();
    for service in pool.services().filter(|service| service.package_name() == package) {
        for method in service.methods().filter(|method| !method.is_client_streaming()) {
            let path = format!("/{}/{}", service.full_name(), method.name());
            paths.insert(path, json!({"post": schemas.operation(&method)}));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "support-access",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            "description": "Each RPC as JSON over HTTP, in the unary form of the Connect protocol. \
                            Field names may also be those of the .proto files. Unknown and \
                            repeated fields are rejected.",
        },
        "security": [{"bearer": []}, {"certificate": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "certificate": {"type": "mutualTLS"},
            },
            "parameters": {"timeout": {
                "name": "Connect-Timeout-Ms",
                "in": "header",
                "description": "The deadline of the call, in milliseconds.",
                "schema": {"type": "integer", "minimum": 0, "maximum": 9_999_999_999_u64},
            }},
            "responses": {"error": {
                "description": "The call has failed.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            }},
            "schemas": schemas.complete(),
        },
    })
}

/// The schemas of messages and enums, by name.
struct Schemas {
    /// By file and path, see `google.protobuf.SourceCodeInfo`.
    comments: HashMap<(String, Vec<i32>), String>,
    schemas: BTreeMap<String, Value>,
}

// === impl Schemas ===

impl Schemas {
    fn new(pool: &DescriptorPool) -> Self {
        let mut comments = HashMap::new();
        for file in pool.files() {
            let info = file.file_descriptor_proto().source_code_info.as_ref();
            for location in info.into_iter().flat_map(|info| &info.location) {
                let key = (file.name().to_owned(), location.path.clone());
                comments.insert(key, unwrapped(location.leading_comments()));
            }
        }
        Self { comments, schemas: BTreeMap::from([("Error".to_owned(), error())]) }
    }

    fn complete(self) -> BTreeMap<String, Value> {
        self.schemas
    }

    fn operation(&mut self, method: &MethodDescriptor) -> Value {
        let service = method.parent_service();
        let (input, output) = (self.message(&method.input()), self.message(&method.output()));
        let (media_type, success) = if method.is_server_streaming() {
            (
                "application/x-ndjson",
                "Lines of messages. If the stream fails, the last line is an \
                                      object with the field `error`, see the schema `Error`.",
            )
        } else {
            ("application/json", "The call has succeeded.")
        };
        json!({
            "operationId": format!("{}_{}", service.name(), method.name()),
            "tags": [service.name()],
            "description": self.comment(&service.parent_file(), method.path()),
            "parameters": [{"$ref": "#/components/parameters/timeout"}],
            "requestBody": {"required": true, "content": {"application/json": {"schema": input}}},
            "responses": {
                "200": {"description": success, "content": {media_type: {"schema": output}}},
                "default": {"$ref": "#/components/responses/error"},
            },
        })
    }

    /// A reference to the schema of a message, or the schema if the message has a form of its own.
    fn message(&mut self, message: &MessageDescriptor) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => return json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => return json!({"type": "string", "pattern": DURATION}),
            "google.protobuf.FieldMask" => return json!({"type": "string"}),
            _ => {}
        }
        let name = message.full_name();
        if !self.schemas.contains_key(name) {
            // A message may contain itself.
            self.schemas.insert(name.to_owned(), Value::Null);
            let properties: Map<_, _> = message
                .fields()
                .map(|field| (field.json_name().to_owned(), self.field(&field)))
                .collect();
            let schema = json!({
                "type": "object",
                "description": self.comment(&message.parent_file(), message.path()),
                "properties": properties,
            });
            self.schemas.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let value = self.kind(&field.kind());
        let mut schema = if field.is_list() {
            json!({"type": "array", "items": value})
        } else if field.is_map() {
            json!({"type": "object"})
        } else {
            value
        };
        let comment = self.comment(&field.parent_message().parent_file(), field.path());
        if let Some(schema) = schema.as_object_mut().filter(|_| !comment.is_empty()) {
            schema.insert("description".to_owned(), comment.into());
        }
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Message(message) => self.message(message),
            Kind::Enum(values) => self.values(values),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::String => json!({"type": "string"}),
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "format": "int32"})
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "string", "format": "int64", "pattern": INTEGER})
            }
        }
    }

    fn values(&mut self, descriptor: &EnumDescriptor) -> Value {
        let name = descriptor.full_name();
        if !self.schemas.contains_key(name) {
            let file = descriptor.parent_file();
            let mut description = self.comment(&file, descriptor.path());
            let mut names = Vec::new();
            for value in descriptor.values() {
                let comment = self.comment(&file, value.path());
                if !comment.is_empty() {
                    // A write to a String cannot fail.
                    let _ = write!(description, "\n\n`{}`: {comment}", value.name());
                }
                names.push(value.name().to_owned());
            }
            let schema = json!({"type": "string", "description": description, "enum": names});
            self.schemas.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    fn comment(&self, file: &FileDescriptor, path: &[i32]) -> String {
        let key = (file.name().to_owned(), path.to_vec());
        self.comments.get(&key).cloned().unwrap_or_default()
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A comment with one line for each paragraph.
fn unwrapped(comment: &str) -> String {
    let paragraphs = comment.trim().split("\n\n");
    let paragraph = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    paragraphs.map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// The schema of errors.
fn error() -> Value {
    json!({
        "type": "object",
        "description": "An error of the Connect protocol. The details are those of the gRPC \
                        status: a `google.rpc.ErrorInfo` with the reason, and others.",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {
                "type": "object",
                "required": ["type", "value"],
                "properties": {
                    "type": {"type": "string"},
                    "value": {"type": "string", "contentEncoding": "base64"},
                    "debug": {"type": "object"},
                },
            }},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::DESCRIPTORS;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(target)) = fields.get("$ref") {
                    found.push(target.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_is_complete_and_has_the_comments() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let document = document(&pool, "supportaccess.v1");
        let mut targets = Vec::new();
        references(&document, &mut targets);
        assert!(targets.len() > 100, "{}", targets.len());
        for target in targets {
            let path = target.trim_start_matches('#');
            assert!(document.pointer(path).is_some_and(Value::is_object), "{target}");
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            assert_ne!(item["post"]["description"], "", "{path}");
        }
        let schemas = &document["components"]["schemas"];
        let check = &schemas["supportaccess.v1.AccessCheck"]["properties"];
        assert_eq!(check["groupIds"]["type"], "array");
        assert_ne!(check["agentId"]["description"], "");
        let levels = &schemas["supportaccess.v1.AccessLevel"];
        assert!(levels["enum"].as_array().unwrap().contains(&"ACCESS_LEVEL_ADMIN".into()));
    }
}
