"""The file that ``monailabel start_server --app`` expects in an app's folder."""

from sdseg_monai.label.app import SDSegApp as SDSegApp
