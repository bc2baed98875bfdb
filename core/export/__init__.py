"""Stage 7: files that travel without this project."""

from core.export.checkpoint import load_exported as load_exported
from core.export.checkpoint import read_export as read_export
from core.export.formats import how_to_load as how_to_load
from core.export.formats import list_formats as list_formats
from core.export.reapply import Applied as Applied
from core.export.reapply import apply_recipe as apply_recipe
from core.export.report import write_report as write_report
from core.export.verify import FileCheck as FileCheck
from core.export.verify import VerifyReport as VerifyReport
from core.export.verify import verify_export as verify_export
from core.export.write import ExportReport as ExportReport
from core.export.write import export_model as export_model
from core.load.models import register_reader

register_reader(read_export)
