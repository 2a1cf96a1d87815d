"""An experiment's figures in other tools' files: CSV, MLflow's file store, TensorBoard's event files."""
