//! JSON configuration files with errors that name file and key.

use serde_json::{Map, Value};

use super::WeightsError;
use super::config::Hyperparameters;
use crate::error::name_for_people;

/// An object of a JSON file.
#[derive(Clone, Debug)]
pub(super) struct Json {
    file: String,
    map: Map<String, Value>,
}

impl Json {
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Json, WeightsError> {
        let error = |what: String| WeightsError::Json { file: file.to_owned(), what };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Json { file: file.to_owned(), map }),
            Ok(_) => Err(error("an object is expected".into())),
            // Parsing to a `Value` quotes nothing out of the file.
            Err(cause) => Err(error(cause.to_string())),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// `Ok(None)` for a key that is absent or null.
    pub fn string(&self, key: &str) -> Result<Option<&str>, WeightsError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(_) => Err(self.bad(key, "a string is expected")),
        }
    }

    /// The object under a key; `Ok(None)` where it is absent or null.
    pub fn object(&self, key: &str) -> Result<Option<Json>, WeightsError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Json { file: self.file.clone(), map: map.clone() })),
            Some(_) => Err(self.bad(key, "an object is expected")),
        }
    }

    /// One token id or a list of them.
    pub fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>, WeightsError> {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.bad(key, "token ids are expected"))
        };
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(values)) => values.iter().map(id).collect::<Result<_, _>>().map(Some),
            Some(value) => Ok(Some(vec![id(value)?])),
        }
    }

    pub fn bad(&self, key: &str, expected: &str) -> WeightsError {
        let value = self.get(key).map_or_else(String::new, Value::to_string);
        WeightsError::BadValue {
            file: self.file.clone(),
            key: key.to_owned(),
            value: format!("`{}`", name_for_people(value.as_bytes())),
            expected: expected.to_owned(),
        }
    }
}

impl Hyperparameters for Json {
    fn file(&self) -> &str {
        &self.file
    }

    fn usize(&self, key: &str) -> Result<Option<usize>, WeightsError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.map(Some).ok_or_else(|| self.bad(key, "a whole number is expected"))
    }

    fn f64(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_f64();
        number.map(Some).ok_or_else(|| self.bad(key, "a number is expected"))
    }
}
