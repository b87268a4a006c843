"""Images with what is on them: boxes, classes and masks, from COCO files, VOC's XML and YOLO's folders."""

from convneur.data.objects.annotations import ObjectImages, Objects, ObjectSource
from convneur.data.objects.sources import open_objects

__all__ = ["ObjectImages", "ObjectSource", "Objects", "open_objects"]
