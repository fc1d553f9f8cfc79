"""Reads the spec of a Kubernetes pod in YAML on standard input, and prints it as JSON if it is one. What the schema does not know fails."""

import json
import sys

import kubernetes_validate
import yaml

pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}} | yaml.safe_load(sys.stdin)
kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
json.dump(pod["spec"], sys.stdout)
