# What a resource has only once it is made, by type: the rest of it the network
# says (get_physical_spec in the resources of NixOps 1.7 and 2.0).
{
  cloudwatchLogGroups = [ "arn" ];
  cloudwatchLogStreams = [ "arn" ];
  commandOutput = [ "value" ];
  datadogMonitors = [ "url" ];
  datadogScreenboards = [ "url" ];
  datadogTimeboards = [ "url" ];
  ec2SecurityGroups = [ "groupId" ];
  elasticFileSystemMountTargets = [ "ipAddress" ];
  elasticIPs = [ "address" ];
  gceForwardingRules = [ "publicIPv4" ];
  gceStaticIPs = [ "publicIPv4" ];
  rdsDbInstances = [ "endpoint" ];
  route53HostedZones = [ "delegationSet" ];
  s3Buckets = [ "arn" ];
  snsTopics = [ "arn" ];
  sqsQueues = [ "arn" "url" ];
  sshKeyPairs = [ "publicKey" ];
  vaultApprole = [ "roleId" "url" ];
  vpc = [ "vpcId" ];
  vpcNatGateways = [ "natGatewayId" ];
  vpcNetworkInterfaceAttachments = [ "attachmentId" ];
  vpcNetworkInterfaces = [ "networkInterfaceId" ];
  vpcRouteTableAssociations = [ "associationId" ];
  vpcRouteTables = [ "routeTableId" ];
  vpcSubnets = [ "subnetId" ];
}
