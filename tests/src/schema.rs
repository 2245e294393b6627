//! Checks JSON against the part of JSON Schema that our schemas use; anything else in a schema is a fault of the schema.

use serde_json::Value;

use crate::place::repository;

/// Every place where a value is not what a schema says, with its path.
pub fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, value, "$", &mut found);
    found
}

/// Fails if a report is not what its schema says.
pub fn check_report(report: &Value) {
    let text = std::fs::read_to_string(repository().join("compiler/report.schema.json")).expect("it is there");
    let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    let faults = faults(&schema, report);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Keywords that are for readers, or that others look up.
const SILENT: &[&str] = &["$schema", "$defs", "title", "description", "properties"];

fn check(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        found.push(format!("{path}: the schema here is no object"));
        return;
    };
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().and_then(|text| text.strip_prefix('#')).unwrap_or_default();
                match root.pointer(pointer) {
                    Some(other) if !pointer.is_empty() => check(root, other, value, path, found),
                    _ => found.push(format!("{path}: the schema refers to {wanted}, which it does not have")),
                }
            }
            "type" => {
                let kinds: Vec<&str> = match wanted {
                    Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                if !kinds.iter().any(|kind| is_a(value, kind)) {
                    found.push(format!("{path}: {value} is no {}", kinds.join(" or ")));
                }
            }
            "const" if value != wanted => found.push(format!("{path}: {value} is not {wanted}")),
            "enum" if !wanted.as_array().is_some_and(|all| all.contains(value)) => {
                found.push(format!("{path}: {value} is none of {wanted}"));
            }
            "minimum" if value.as_f64() < wanted.as_f64() => found.push(format!("{path}: {value} is below {wanted}")),
            "const" | "enum" | "minimum" => {}
            "required" => {
                let missing = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
                let missing = missing.filter(|key| value.is_object() && value.get(key).is_none());
                found.extend(missing.map(|key| format!("{path}: there is no `{key}`")));
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{path}[{index}]"), found);
                }
            }
            "additionalProperties" => {
                let known = |key: &str| keywords.get("properties").is_some_and(|all| all.get(key).is_some());
                for (key, inner) in value.as_object().into_iter().flatten().filter(|(key, _)| !known(key)) {
                    match wanted {
                        Value::Bool(false) => found.push(format!("{path}: `{key}` is not in the schema")),
                        Value::Bool(true) => {}
                        other => check(root, other, inner, &format!("{path}.{key}"), found),
                    }
                }
            }
            silent if SILENT.contains(&silent) => {}
            other => found.push(format!("{path}: the schema uses `{other}`, which this check does not know")),
        }
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        if let Some(wanted) = keywords.get("properties").and_then(|all| all.get(key)) {
            check(root, wanted, inner, &format!("{path}.{key}"), found);
        }
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::faults;

    #[test]
    fn what_differs_from_the_schema_is_named() {
        let schema = json!({
            "type": "object",
            "required": ["a"],
            "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/n"}}, "b": {"enum": ["x"]}},
            "additionalProperties": false,
            "$defs": {"n": {"type": "integer", "minimum": 0}},
        });
        assert_eq!(faults(&schema, &json!({"a": [1, 2], "b": "x"})), Vec::<String>::new());
        for (value, part) in [
            (json!([]), "$: [] is no object"),
            (json!({}), "there is no `a`"),
            (json!({"a": [1.5]}), "$.a[0]: 1.5 is no integer"),
            (json!({"a": [-1]}), "is below 0"),
            (json!({"a": [], "b": "y"}), "is none of"),
            (json!({"a": [], "c": 1}), "`c` is not in the schema"),
        ] {
            assert!(faults(&schema, &value).iter().any(|fault| fault.contains(part)), "{value}: {part}");
        }
        assert!(!faults(&json!({"pattern": "x"}), &json!("x")).is_empty());
    }
}
