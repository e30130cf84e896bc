"""Train: manifest, label overlay and config in; an artefact folder out."""
