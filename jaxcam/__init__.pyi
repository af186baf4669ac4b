"""The public names: what type checkers see, and where `jaxcam/__init__.py` finds them."""

from jaxcam.cutting import HeadParams as HeadParams
from jaxcam.cutting import Layout as Layout
from jaxcam.cutting import cut as cut
from jaxcam.cutting import layers as layers
from jaxcam.cutting import split as split
from jaxcam.cutting import tag as tag
from jaxcam.cutting import tokens as tokens
from jaxcam.data.preprocessing import Preprocessing as Preprocessing
from jaxcam.errors import JaxcamError as JaxcamError
from jaxcam.explanation.explain import explain as explain
from jaxcam.explanation.figures import plot as plot
from jaxcam.explanation.overlays import overlay as overlay
from jaxcam.explanation.result import Attribution as Attribution
from jaxcam.explanation.result import Explanation as Explanation
from jaxcam.methods.coalition import ablation_cam as ablation_cam
from jaxcam.methods.contribution import deep_shap_cam as deep_shap_cam
from jaxcam.methods.contribution import hires_lift_cam as hires_lift_cam
from jaxcam.methods.contribution import hires_lrp_cam as hires_lrp_cam
from jaxcam.methods.contribution import lift_cam as lift_cam
from jaxcam.methods.contribution import lrp_cam as lrp_cam
from jaxcam.methods.contribution import multiplier_cam as multiplier_cam
from jaxcam.methods.gradient import cam as cam
from jaxcam.methods.gradient import grad_cam as grad_cam
from jaxcam.methods.gradient import grad_cam_pp as grad_cam_pp
from jaxcam.methods.gradient import hires_cam as hires_cam
from jaxcam.methods.gradient import xgrad_cam as xgrad_cam
from jaxcam.methods.maps import project as project
from jaxcam.methods.maps import resize_map as resize_map
from jaxcam.methods.maps import scale_map as scale_map
from jaxcam.methods.maps import why_empty as why_empty
from jaxcam.methods.registry import METHODS as METHODS
from jaxcam.methods.result import CAM as CAM
from jaxcam.methods.sampling import kernel_shap_cam as kernel_shap_cam
from jaxcam.methods.sampling import lime_cam as lime_cam
from jaxcam.methods.sampling import shap_cam as shap_cam
from jaxcam.methods.score import score_cam as score_cam
from jaxcam.metrics import METRICS as METRICS
from jaxcam.models.network import Network as Network
from jaxcam.models.wrapped import wrap as wrap
from jaxcam.transforms.coalition import coalition_game as coalition_game
from jaxcam.transforms.deeplift import deeplift as deeplift
from jaxcam.transforms.lrp import lrp as lrp
from jaxcam.zoo.load import load as load
from jaxcam.zoo.store import save_network as save_network

__version__: str
