//! `/v1/openapi.json` and `/v1/problems`: the API about itself.

use axum::Json;
use axum::extract::State;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::extract::{Answer, PathPart, Refusal};
use super::route::Route;
use crate::handle::problem::{Problem, ProblemKind};

/// What a problem type means.
#[derive(Debug, Serialize, JsonSchema)]
struct ProblemType {
    /// The type's URI reference, as `type` in problem documents.
    #[serde(rename = "type")]
    type_uri: String,
    /// The kind in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What `halloo` exits with.
    exit_code: u8,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/openapi.json", "openapi", "This document", openapi),
        Route::get("/v1/problems", "problemTypes", "All problem types", problems).returns::<Vec<ProblemType>>(),
        Route::get("/v1/problems/{slug}", "problemType", "What a problem type means", problem).returns::<ProblemType>(),
    ]
}

async fn openapi(State(_): State<ApiState>) -> Json<Value> {
    Json(document(&super::routes()))
}

async fn problems(State(_): State<ApiState>) -> Json<Vec<ProblemType>> {
    Json(ProblemKind::ALL.iter().map(|kind| problem_type(*kind)).collect())
}

async fn problem(State(_): State<ApiState>, PathPart(slug): PathPart) -> Answer<ProblemType> {
    let kind = ProblemKind::ALL.iter().find(|kind| kind.slug() == slug);
    let kind = kind.ok_or_else(|| Refusal::new(ProblemKind::NotFound, format!("there is no problem type {slug:?}")))?;
    Ok(Json(problem_type(*kind)))
}

fn problem_type(kind: ProblemKind) -> ProblemType {
    let Problem { type_uri, title, status, exit_code, .. } = Problem::new(kind, "");
    ProblemType { type_uri, title, status, exit_code }
}

/// The OpenAPI 3.1 document of a table of routes.
pub(super) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12();
    let settings = settings.with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for route in routes {
        let operation = operation(route, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation;
    }
    let problem = generator.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Halloo local API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a Halloo node does, for programs on the same machine.",
        },
        "paths": paths,
        "security": [{}, { "token": [] }],
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": { "Problem": {
                "description": "It did not work (RFC 9457)",
                "content": { "application/problem+json": { "schema": problem } },
            } },
            "securitySchemes": { "token": {
                "type": "http", "scheme": "bearer",
                "description": "The file api-token in the home; on TCP only",
            } },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let (media_type, answer) = route.answer;
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "parameters": parameters(route, generator),
        "responses": {
            "200": {
                "description": "Done",
                "content": { media_type: { "schema": answer(generator) } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    });
    if let Some(body) = route.body {
        let schema = body(generator);
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
    }
    operation
}

/// The variable parts of the path and the fields of the query.
fn parameters(route: &Route, generator: &mut SchemaGenerator) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<_> =
        names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })).collect();
    if let Some(query) = route.query {
        let schema = query(generator);
        parameters.extend(query_parameters(&resolve_ref(&schema, generator)));
    }
    parameters
}

/// The schema a reference into the components stands for.
fn resolve_ref(schema: &Schema, generator: &SchemaGenerator) -> Value {
    let reference = schema.get("$ref").and_then(Value::as_str).unwrap_or_default();
    let name = reference.rsplit('/').next().unwrap_or_default();
    generator.definitions().get(name).cloned().unwrap_or_else(|| schema.clone().to_value())
}

fn query_parameters(schema: &Value) -> Vec<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let parameter = |(name, schema): (String, Value)| {
        let is_required = required.contains(&Value::from(name.as_str()));
        json!({ "name": name, "in": "query", "required": is_required, "schema": schema })
    };
    properties.into_iter().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_route_and_no_dangling_reference() {
        let routes = super::super::routes();
        let document = document(&routes);
        let operations: usize =
            document["paths"].as_object().expect("paths").values().map(|path| path.as_object().map_or(0, Map::len)).sum();
        assert_eq!(operations, routes.len());
        for route in &routes {
            let method = route.method.as_str().to_ascii_lowercase();
            assert_eq!(document["paths"][route.path][method]["operationId"], route.id);
        }
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let pointer = reference.split('"').next().expect("a pointer");
            let target = document.pointer(pointer.trim_start_matches('#'));
            assert!(target.is_some(), "{pointer} leads nowhere");
        }
    }

    #[test]
    fn operation_ids_are_unique_and_queries_are_parameters() {
        let routes = super::super::routes();
        let ids: std::collections::HashSet<_> = routes.iter().map(|route| route.id).collect();
        assert_eq!(ids.len(), routes.len());
        let document = document(&routes);
        let parameters = &document["paths"]["/v1/users/{user}"]["get"]["parameters"];
        let names: Vec<_> = parameters.as_array().expect("some").iter().map(|p| p["name"].as_str()).collect();
        assert_eq!(names, [Some("user"), Some("fresh"), Some("settled")]);
    }
}
