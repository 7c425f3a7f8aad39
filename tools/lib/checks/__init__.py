"""What tools/test decides (`plan`) and how it runs what was decided (`runs`)."""
