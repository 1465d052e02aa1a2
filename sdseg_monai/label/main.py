"""What ``monailabel start_server --app`` looks for in an app's folder."""

from sdseg_monai.label.app import SDSegApp as SDSegApp
