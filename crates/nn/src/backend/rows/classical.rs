//! Operators of classical models (`ai.onnx.ml`).

use super::value::{Case, ITEMS, Items, Length, UNKNOWN, Value, no};
use super::walk::{Operation, Walk};

impl Walk<'_> {
    /// Trees, linear models and their preprocessing. Rows are items if the input has two axes.
    pub(super) fn classical(&mut self, operation: &Operation<'_>) -> Case<Vec<Value>> {
        let x = operation.input(0)?;
        let op = operation.node.op.as_str();
        let table = || -> Case<Length> {
            let dims = x.dims()?;
            match x.items == Some(Items::along(0)) && dims.len() == 2 {
                true => Ok(dims[0].clone()),
                false => no("has an input that is not one row for each item"),
            }
        };
        let same = x.clone();
        match op {
            "Binarizer" | "CategoryMapper" | "LabelEncoder" => Ok(vec![same]),
            "Imputer" | "Normalizer" | "Scaler" => {
                table()?;
                Ok(vec![same])
            }
            "LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier" => {
                let count = table()?;
                let scores = vec![count.clone(), self.unknown(false)];
                Ok(vec![
                    Value::new(vec![count], Some(Items::along(0))),
                    Value::new(scores, Some(Items::along(0))),
                ])
            }
            "LinearRegressor" | "SVMRegressor" | "TreeEnsemble" | "TreeEnsembleRegressor" => {
                let targets = match op {
                    "LinearRegressor" => operation.int("targets", 1)?,
                    "SVMRegressor" => 1,
                    _ => operation.int("n_targets", 0)?,
                };
                let targets = match targets {
                    0 => self.unknown(false),
                    targets => Length::number(targets),
                };
                let dims = vec![table()?, targets];
                Ok(vec![Value::new(dims, Some(Items::along(0)))])
            }
            "OneHotEncoder" => {
                let mut dims = x.dims()?.to_vec();
                dims.push(self.unknown(false));
                Ok(vec![Value::new(dims, x.items.clone())])
            }
            "FeatureVectorizer" => {
                for value in operation.given() {
                    let begins = value.items == Some(Items::along(0)) && value.rank()? == 2;
                    if !begins {
                        return no("has an input that is not one row for each item");
                    }
                }
                let dims = vec![table()?, self.unknown(false)];
                Ok(vec![Value::new(dims, Some(Items::along(0)))])
            }
            "ArrayFeatureExtractor" => {
                let at = operation.input(1)?;
                let mut dims = x.dims()?.to_vec();
                let last = dims
                    .len()
                    .checked_sub(1)
                    .ok_or("has an input without axes")?;
                match (&x.items, &at.items) {
                    (Some(items), None) if items.axis < last => {
                        dims[last] = match Length::product(at.dims()?) {
                            Some(count) => count,
                            None => self.unknown(false),
                        };
                        Ok(vec![Value::new(dims, x.items.clone())])
                    }
                    // A table of names, and each item's place in it.
                    (None, Some(items)) if items.outer.is(1) && dims.len() == 1 => {
                        let count = Length::product(at.dims()?).ok_or(UNKNOWN)?;
                        if count != Length::name(ITEMS) {
                            return no("takes several elements for each item");
                        }
                        let dims = vec![Length::number(1), count];
                        Ok(vec![Value::new(dims, Some(Items::along(1)))])
                    }
                    _ => no("takes elements by their place among the items"),
                }
            }
            _ => no(UNKNOWN),
        }
    }
}
