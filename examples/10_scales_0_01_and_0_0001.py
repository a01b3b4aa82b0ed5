"""Why 0.01 and 0.0001? They bring the features of VGG16's strides to one norm; another net has other norms."""

from minifcn import Tensor, fcn, models
from minifcn.data import ShapeScenes

net = fcn.FCN(fcn.convolutionalize(models.tiny_vgg(21)), 21, stride=8)
image = Tensor(ShapeScenes("val", 72, count=4).example(0).image[None])
print({stride: round(scale, 2) for stride, scale in fcn.feature_scales(net, [image]).items()})
